"""The fraction of a privacy layer's output that is dead: it says nothing about the sample."""

from __future__ import annotations

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
        self._low = self._high = torch.empty(0)

    def add(self, maps: torch.Tensor) -> None:
        """Count feature maps (n, ...) as the layer gives them, without noise."""
        low, high = torch.aminmax(maps, dim=0)
        if self._samples:
            low, high = torch.minimum(low, self._low), torch.maximum(high, self._high)
        self._low, self._high = low, high
        self._zeros += maps.numel() - int(torch.count_nonzero(maps))
        self._samples += len(maps)

    @property
    def dead(self) -> float:
        """The fraction of all values, 0 to 1, that are zero or the same in every sample."""
        if self._samples < 2:
            return 0.0
        constant = (self._high - self._low <= SAME * self._high.abs()) & (self._low != 0)
        dead = self._zeros + self._samples * int(constant.sum())
        return dead / (self._samples * self._low.numel())
