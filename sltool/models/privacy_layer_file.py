"""The file privacy-layer.safetensors: weights, the shape of the feature maps, and their origin.

The shape is in the file's metadata, together with the settings that it was computed for, so that
the server can check shards without building the network or importing torch. So are the steps that
compute the layer in NumPy, for sites without torch; a layer with other parts is also written as
`privacy-layer.onnx`, whose digest the metadata have.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired

from typing_extensions import TypedDict

from sltool.errors import BadDataError, MissingPackageError, StudyMismatchError
from sltool.files import parse_json, publish, remove, sha256
from sltool.models.numpy_layer import NumpyLayer, OnnxLayer, PlainLayer, Step
from sltool.study.layout import StudyFolder, onnx_beside
from sltool.study.schema import Study

if TYPE_CHECKING:
    from torch import nn

KEY = "feature_maps"
DAMAGED = "take study.yaml and privacy-layer.safetensors from the same study"


class Fitted(TypedDict):
    """What the layer was fitted on, which may tell something about those samples.

    Attributes:
        site: the site whose training samples it was; '' for public data.
    """

    site: str
    samples: int


class KnownShape(TypedDict):
    """The metadata: the shape of a feature map, and the settings that it was computed for.

    Attributes:
        fitted: None or absent if the layer was drawn.
        steps: how NumPy computes the layer; None or absent if it cannot.
        onnx: hex SHA-256 of `privacy-layer.onnx`, if there is one.
    """

    shape: list[int]
    of: dict[str, Any]
    fitted: NotRequired[Fitted | None]
    steps: NotRequired[list[Step] | None]
    onnx: NotRequired[str | None]


def write_layer(path: Path, layer: nn.Module, study: Study, fitted: Fitted | None = None) -> None:
    """Publish the weights of a privacy layer for this study.

    A layer that NumPy cannot compute is published as `privacy-layer.onnx` too, where `onnx` is
    installed.

    Args:
        fitted: the data that it was fitted on; None if it was drawn.
    Raises:
        StorageError: no space or no permission.
    """
    from safetensors.torch import save

    from sltool.models.base import output_shape
    from sltool.models.layer_steps import layer_steps

    weights = {name: value.contiguous() for name, value in layer.state_dict().items()}
    # On the CPU: it may have been fitted elsewhere.
    layer = layer.eval().cpu()
    known: dict[str, Any] = {
        "shape": output_shape(layer, study),
        "of": _settings(study),
        "steps": layer_steps(layer, study.samples.shape),
    }
    known["onnx"] = _write_onnx(onnx_beside(path), layer, study, known["steps"] is None)
    if fitted is not None:
        known["fitted"] = fitted
    # A single key, because safetensors writes several in a random order.
    metadata = {KEY: json.dumps(known, sort_keys=True)}
    with publish(path, public=True) as part:
        part.write_bytes(save(weights, metadata=metadata))


def _write_onnx(path: Path, layer: nn.Module, study: Study, needed: bool) -> str | None:
    """Publish the layer as ONNX if it is needed and possible; returns the file's SHA-256."""
    from sltool.models.onnx_file import layer_to_onnx

    try:
        model = layer_to_onnx(layer, study.samples.shape) if needed else None
    except MissingPackageError:
        model = None
    if model is None:
        remove(path)
        return None
    with publish(path, public=True) as part:
        part.write_bytes(model)
    return sha256(path)


def load_privacy_layer(folder: StudyFolder, study: Study) -> nn.Module:
    """The privacy layer with the study's weights, for inference.

    Raises:
        StageOrderError: the weights are missing.
        BadDataError: the file is damaged.
        StudyMismatchError: they do not fit the model.
    """
    from sltool.models.base import load_weights, outline

    path = folder.privacy_layer
    study.encoding_digest(path)
    layer = outline(study).privacy_layer
    load_weights(
        layer,
        path,
        "the privacy layer",
        "take study.yaml and privacy-layer.safetensors from the same study; without the file, "
        "`sltool prepare --force` makes new weights, for all sites",
    )
    return layer.eval()


def known_shape(path: Path, study: Study) -> tuple[int, ...] | None:
    """The shape of a feature map in the file's metadata, (C, H, W) or (D,).

    None if the file has no such metadata, or was written for other settings of the study.

    Raises:
        BadDataError: the metadata is damaged.
    """
    known = _metadata(path)
    return tuple(known["shape"]) if known and known["of"] == _settings(study) else None


def fitted_on(path: Path) -> Fitted | None:
    """What a privacy layer was fitted on, as its file says; None if it was drawn.

    Raises:
        BadDataError: the metadata is damaged.
    """
    known = _metadata(path)
    return known.get("fitted") if known else None


def awaits_fit(path: Path, study: Study) -> bool:
    """Whether the study's layer ends in a code that `fit-privacy-layer` has not fitted yet.

    Raises:
        BadDataError: the metadata is damaged.
    """
    at_site = study.model.code is not None and study.model.cut > 0
    return at_site and fitted_on(path) is None


def plain_backend(path: Path) -> str | None:
    """What computes this layer without torch: 'numpy' or 'onnxruntime'; None if nothing does.

    Raises:
        BadDataError: the metadata is damaged.
    """
    known = _metadata(path)
    if known is None:
        return None
    if known.get("steps") is not None:
        return "numpy"
    return "onnxruntime" if known.get("onnx") else None


def multiplications(path: Path, study: Study) -> int:
    """At most so many multiplications make one feature map.

    Raises:
        BadDataError: the file is damaged.
    """
    spatial = math.prod(study.samples.shape[1:])
    return sum(
        value.size * (spatial if value.ndim == len(study.samples.shape) + 1 > 2 else 1)
        for value in _weights(path).values()
    )


def load_plain_layer(folder: StudyFolder, study: Study, threads: int) -> PlainLayer:
    """The privacy layer with the study's weights, without torch.

    Args:
        threads: of onnxruntime.

    Raises:
        StageOrderError: the weights are missing.
        MissingPackageError: only torch can compute this layer, or onnxruntime is not installed.
        BadDataError: the file is damaged.
        StudyMismatchError: it is of another model, or `privacy-layer.onnx` is of another layer.
    """
    path = folder.privacy_layer
    study.encoding_digest(path)
    known = _metadata(path)
    steps = known.get("steps") if known else None
    if known is not None and known["of"] != _settings(study):
        raise StudyMismatchError(
            "the privacy layer was made for other settings", where=path, hint=DAMAGED
        )
    if steps is not None:
        return NumpyLayer(steps, _weights(path))
    onnx = onnx_file(folder)
    if onnx is None:
        raise MissingPackageError("torch", "this study's privacy layer", "server")
    return OnnxLayer(onnx, threads)


def onnx_file(folder: StudyFolder) -> Path | None:
    """`privacy-layer.onnx`, if the layer's file says that there is one.

    Raises:
        StudyMismatchError: it is missing, or of another layer.
        BadDataError: the metadata is damaged.
    """
    known = _metadata(folder.privacy_layer)
    digest = known.get("onnx") if known else None
    if not digest:
        return None
    path = folder.privacy_layer_onnx
    if not path.is_file() or sha256(path) != digest:
        raise StudyMismatchError(
            "the privacy layer's ONNX file is missing or of another layer",
            where=path,
            expected="the file that the coordinator has beside privacy-layer.safetensors",
            hint='copy it here, or install torch: pip install "sltool[server]"',
        )
    return path


def _weights(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, ValueError) as error:
        raise BadDataError(
            f"the privacy layer is damaged: {error}", where=path, hint=DAMAGED
        ) from error


def _metadata(path: Path) -> KnownShape | None:
    """None if the file cannot be read, or has no such metadata."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            text = (file.metadata() or {}).get(KEY)
    except (OSError, SafetensorError):
        # Reading the weights reports what is wrong with the file.
        return None
    if text is None:
        return None
    return parse_json(text, KnownShape, path, "the privacy layer's metadata", DAMAGED)


def feature_shape(path: Path, study: Study) -> tuple[int, ...]:
    """The shape of a feature map; computed by the network if the file does not state it.

    Raises:
        StudyFileError: the model's settings or the cut are wrong.
        UnknownNameError: there is no such model.
    """
    known = known_shape(path, study)
    if known is not None:
        return known
    from sltool.models.base import feature_shape as built_shape

    return built_shape(study)


def states_origin(path: Path) -> bool:
    """Whether a privacy layer's file says how its weights were made; old versions do not.

    Raises:
        BadDataError: the metadata is damaged.
    """
    return _metadata(path) is not None


def _settings(study: Study) -> dict[str, Any]:
    return {"samples": list(study.samples.shape), "model": study.layer_settings()}
