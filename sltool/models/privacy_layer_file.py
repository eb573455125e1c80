"""The file privacy-layer.safetensors: weights, the shape of the feature maps, and their origin.

The shape is in the file's metadata, together with the settings that it was computed for, so that
the server can check shards without building the network or importing torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired

from typing_extensions import TypedDict

from sltool.files import parse_json, publish
from sltool.study.layout import StudyFolder
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
    """

    shape: list[int]
    of: dict[str, Any]
    fitted: NotRequired[Fitted | None]


def write_layer(path: Path, layer: nn.Module, study: Study, fitted: Fitted | None = None) -> None:
    """Publish the weights of a privacy layer for this study.

    Args:
        fitted: the data that it was fitted on; None if it was drawn.

    Raises:
        StorageError: no space or no permission.
    """
    from safetensors.torch import save

    from sltool.models.base import output_shape

    weights = {name: value.contiguous() for name, value in layer.state_dict().items()}
    known = {"shape": output_shape(layer.eval(), study), "of": _settings(study)}
    if fitted is not None:
        known["fitted"] = fitted
    # A single key, because safetensors writes several in a random order.
    metadata = {KEY: json.dumps(known, sort_keys=True)}
    with publish(path, public=True) as part:
        part.write_bytes(save(weights, metadata=metadata))


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


def _metadata(path: Path) -> KnownShape | None:
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


def _settings(study: Study) -> dict[str, Any]:
    return {"samples": list(study.samples.shape), "model": study.layer_settings()}
