"""How much of what a privacy layer gives is dead: says nothing about the sample."""

from __future__ import annotations

import torch

# From this share on the site is warned. A layer drawn by `prepare` stays below 0.2 on real data.
MANY_DEAD = 0.5
# Values closer than this, relative to their size, are the same: an activation's last bit hangs on
# where in a batch the sample stands.
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
        """The share of all values, 0 to 1, that are zero or of a place that never changes."""
        if self._samples < 2:
            return 0.0
        constant = (self._high - self._low <= SAME * self._high.abs()) & (self._low != 0)
        dead = self._zeros + self._samples * int(constant.sum())
        return dead / (self._samples * self._low.numel())
