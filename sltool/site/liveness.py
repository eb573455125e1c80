"""The fraction of a privacy layer's output that is dead: it says nothing about the sample."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

# From this fraction on the site is warned. Layers drawn by `prepare` stay below 0.2 on real data.
MANY_DEAD = 0.5
# Relative difference below which values count as the same: the last bit of an activation depends on
# the position of the sample in its batch.
SAME = 1e-5


class Liveness:
    """Counts values of feature maps that are zero, or the same in every sample."""

    def __init__(self) -> None:
        self._samples = 0
        self._zeros = 0
        self._low: NDArray[Any] = np.empty(0)
        self._high: NDArray[Any] = np.empty(0)

    def add(self, maps: torch.Tensor | NDArray[Any]) -> None:
        """Count feature maps (n, ...) as the layer gives them, without noise."""
        values = maps if isinstance(maps, np.ndarray) else maps.numpy(force=True)
        low, high = values.min(axis=0), values.max(axis=0)
        if self._samples:
            low, high = np.minimum(low, self._low), np.maximum(high, self._high)
        self._low, self._high = low, high
        # Of floats count_nonzero is slow.
        self._zeros += int(np.count_nonzero(values == 0))
        self._samples += len(values)

    @property
    def dead(self) -> float:
        """The fraction of all values, 0 to 1, that are zero or the same in every sample."""
        if self._samples < 2:
            return 0.0
        constant = (self._high - self._low <= SAME * np.abs(self._high)) & (self._low != 0)
        dead = self._zeros + self._samples * int(constant.sum())
        return dead / (self._samples * self._low.size)
