"""Encodes samples without torch, with NumPy or onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sltool.errors import BadDataError
from sltool.models.numpy_layer import PlainLayer
from sltool.shard.packing import level_indices, pack_levels
from sltool.site.augment import Augmenter
from sltool.site.liveness import Liveness
from sltool.site.noise import fresh_draws
from sltool.study.schema import Encoding, Study


class NumpyEncoder:
    """As `sltool.site.torch_encoder.Encoder`, without torch.

    Args:
        seed: of the random versions of training images. The noise does not depend on it.
    """

    def __init__(self, study: Study, layer: PlainLayer, seed: int) -> None:
        columns = (1, -1) + (1,) * (len(study.samples.shape) - 1)
        self._mean = np.array(study.samples.mean, np.float32).reshape(columns)
        self._sd = np.array(study.samples.sd, np.float32).reshape(columns)
        self._layer = layer
        self._settings = study.encoding
        self._seed = seed
        self.liveness = Liveness()
        self.begin(0)

    def begin(self, batch: int) -> None:
        """As `Encoder.begin`."""
        self._augment = Augmenter(self._settings, self._seed, batch)

    def __call__(self, inputs: NDArray[Any], views: int = 1) -> NDArray[Any]:
        """As `Encoder`.

        Raises:
            BadDataError: a value does not fit the dtype, or is not a number.
        """
        x = self._augment.plain(inputs.astype(np.float32), views)
        maps = self._layer((x - self._mean) / self._sd)
        levels = self._settings.levels
        # Of quantised maps the index of the level counts, from 1: zero is dead.
        self.liveness.add(maps if levels is None else level_indices(maps, levels) + np.float32(1))
        maps = clipped_with_noise(maps, self._settings)
        if levels is None:
            with np.errstate(over="ignore"):
                maps = maps.astype(self._settings.dtype)
        if not np.isfinite(maps).all():
            raise does_not_fit(self._settings)
        return maps if levels is None else pack_levels(level_indices(maps, levels), levels.bits)


def clipped_with_noise(maps: NDArray[np.float32], settings: Encoding) -> NDArray[np.float32]:
    """As `sltool.site.torch_encoder.clip_and_add_noise` with fresh noise."""
    if settings.clip is not None:
        norms = np.sqrt(np.square(maps.reshape(len(maps), -1)).sum(axis=1))
        factors = np.float32(settings.clip) / np.maximum(norms, np.float32(settings.clip))
        maps = maps * factors.reshape(-1, *(1,) * (maps.ndim - 1))
    if settings.noise:
        maps = maps + fresh_draws(maps.shape) * np.float32(settings.noise)
    return maps


def does_not_fit(settings: Encoding) -> BadDataError:
    """The error for a feature map with values beyond the dtype's range."""
    return BadDataError(
        f"a feature map does not fit {settings.dtype}",
        hint="set encoding.dtype to float32 in study.yaml, for all sites",
    )
