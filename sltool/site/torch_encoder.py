"""Encodes samples with torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sltool.shard.packing import pack_levels
from sltool.site.augment import Augmenter
from sltool.site.liveness import Liveness
from sltool.site.noise import fresh_noise
from sltool.site.numpy_encoder import does_not_fit
from sltool.study.schema import Encoding, Study

if TYPE_CHECKING:
    import torch
    from torch import nn


def without_gradients(method: Callable[..., NDArray[Any]]) -> Callable[..., NDArray[Any]]:
    """As `torch.inference_mode`; torch is imported when the method is called."""

    @wraps(method)
    def call(*arguments: Any) -> NDArray[Any]:
        import torch

        with torch.inference_mode():
            return method(*arguments)

    return call


class Encoder:
    """Encodes samples: standardisation, privacy layer, clipping, noise, rounding to what ships.

    `liveness` counts dead values in the output of the privacy layer.

    Args:
        seed: of the random versions of training images. The noise does not depend on it.
    """

    def __init__(self, study: Study, layer: nn.Module, device: torch.device, seed: int) -> None:
        import torch

        from sltool.models.precision import channels_last

        columns = (1, -1) + (1,) * (len(study.samples.shape) - 1)
        self._mean = torch.tensor(study.samples.mean, device=device).reshape(columns)
        self._sd = torch.tensor(study.samples.sd, device=device).reshape(columns)
        self._layer = channels_last(layer)
        self._device = device
        self._settings = study.encoding
        self._dtype = getattr(torch, study.encoding.dtype)
        self._seed = seed
        self.liveness = Liveness()
        self.begin(0)

    def begin(self, batch: int) -> None:
        """Begin with the samples of a batch, whose random versions do not depend on others."""
        self._augment = Augmenter(self._settings, self._seed, batch)

    @without_gradients
    def __call__(self, inputs: NDArray[Any], views: int = 1) -> NDArray[Any]:
        """(n, *shape) in the source's units -> (n * views, *row_shape) in the shard's dtype.

        The first view of a sample is the sample itself, the others are random versions of it.

        Raises:
            BadDataError: a value does not fit the dtype, or is not a number.
        """
        import torch

        from sltool.models.quantise import nearest_level

        x = torch.from_numpy(inputs).to(self._device, torch.float32)
        x = self._augment(x, views)
        maps = self._layer((x - self._mean) / self._sd)
        levels = self._settings.levels
        # Of quantised maps the index of the level counts, from 1: zero is dead.
        self.liveness.add(maps if levels is None else nearest_level(maps, levels).float() + 1)
        maps = clip_and_add_noise(maps, self._settings, fresh_noise)
        if levels is None:
            maps = maps.to(self._dtype)
        if not torch.isfinite(maps).all():
            raise does_not_fit(self._settings)
        if levels is not None:
            return pack_levels(nearest_level(maps, levels).cpu().numpy(), levels.bits)
        return np.asarray(maps.contiguous().cpu().numpy())


def clip_and_add_noise(
    maps: torch.Tensor, settings: Encoding, noise: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Feature maps (n, ...), clipped to `settings.clip` (L2 norm), plus `settings.noise` noise.

    Args:
        noise: maps -> standard normal numbers of the same shape.
    """
    if settings.clip is not None:
        norms = maps.flatten(1).norm(dim=1).clamp(min=settings.clip)
        maps = maps * (settings.clip / norms).reshape(-1, *(1,) * (maps.dim() - 1))
    if settings.noise:
        import torch

        maps = torch.add(maps, noise(maps), alpha=settings.noise)
    return maps


def as_shipped(maps: torch.Tensor, settings: Encoding) -> torch.Tensor:
    """Output of the privacy layer (n, ...) -> feature maps as a reader of the shard has them.

    Differentiable. The dtype is not rounded to float16.
    """
    from sltool.models.quantise import quantise

    return quantise(clip_and_add_noise(maps, settings, fresh_noise), settings.levels)
