"""What computes the privacy layer at a site: torch, or NumPy or onnxruntime where torch is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from sltool.errors import UsageError
from sltool.machine import available_cpus, is_installed, need
from sltool.models.numpy_layer import PlainLayer
from sltool.models.privacy_layer_file import (
    load_plain_layer,
    load_privacy_layer,
    multiplications,
    plain_backend,
)
from sltool.site.liveness import Liveness
from sltool.site.numpy_encoder import NumpyEncoder
from sltool.study.layout import StudyFolder
from sltool.study.schema import Study

if TYPE_CHECKING:
    import torch
    from torch import nn

Backend = Literal["auto", "torch", "numpy", "onnxruntime"]
# Multiplications that NumPy does in less time than importing torch takes, about a second.
QUICK_IN_NUMPY = 2 * 10**9


class AnyEncoder(Protocol):
    """Encodes samples; see `sltool.site.torch_encoder.Encoder`."""

    liveness: Liveness

    def begin(self, batch: int) -> None:
        """Begin with the samples of a batch, whose random versions do not depend on others."""

    def __call__(self, inputs: NDArray[Any], views: int = 1) -> NDArray[Any]:
        """(n, *shape) in the source's units -> (n * views, *row_shape) in the shard's dtype."""


def choose_backend(
    backend: Backend, folder: StudyFolder, study: Study, device: str, samples: int | None
) -> Backend:
    """Which backend computes this study's privacy layer here.

    Args:
        backend: auto: NumPy where that is quicker than to import torch; else torch where it is
            installed.
        device: auto, or what only torch has.
        samples: how many there are to encode, without their views; None: not known.

    Raises:
        UsageError: it is not the one that computes this layer without torch, or has no such device.
        MissingPackageError: it is torch, which is not installed.
        BadDataError: the privacy layer's metadata is damaged.
    """
    plain = plain_backend(folder.privacy_layer)
    if (backend, plain, device) == ("auto", "numpy", "auto") and samples is not None:
        maps = samples * study.encoding.views
        if maps * multiplications(folder.privacy_layer, study) <= QUICK_IN_NUMPY:
            return "numpy"
    if backend == "auto" and (is_installed("torch") or plain is None):
        backend = "torch"
    if backend == "torch":
        need("torch", "this study's privacy layer", "server")
        return "torch"
    if backend not in ("auto", plain):
        raise UsageError(
            f"{backend} does not compute this study's privacy layer",
            where=folder.privacy_layer,
            expected=" or ".join(name for name in (plain, "torch") if name),
            hint="leave --backend out",
        )
    if device not in ("auto", "cpu"):
        raise UsageError(f"{plain} has no device '{device}'", expected="auto or cpu, or torch")
    return "numpy" if plain == "numpy" else "onnxruntime"


def open_layer(
    folder: StudyFolder, study: Study, device: torch.device | None
) -> nn.Module | PlainLayer:
    """The privacy layer, on the CPU; without torch if `device` is None.

    Raises:
        StageOrderError, BadDataError, StudyMismatchError, MissingPackageError: as
            `load_privacy_layer` and `load_plain_layer`.
    """
    if device is None:
        return load_plain_layer(folder, study, available_cpus())
    return load_privacy_layer(folder, study)


def layer_shape(layer: nn.Module | PlainLayer, study: Study) -> tuple[int, ...]:
    """The shape (C, H, W) or (D,) of the feature map that the layer computes."""
    if isinstance(layer, PlainLayer):
        return layer(np.zeros((1, *study.samples.shape), np.float32)).shape[1:]
    from sltool.models.base import output_shape

    return output_shape(layer, study)


def encoder_for(
    study: Study, layer: nn.Module | PlainLayer, device: torch.device | None, seed: int
) -> AnyEncoder:
    """The encoder of a layer that `open_layer` returned for this device."""
    if isinstance(layer, PlainLayer):
        return NumpyEncoder(study, layer, seed)
    from sltool.site.torch_encoder import Encoder

    assert device is not None
    return Encoder(study, layer.to(device), device, seed)
