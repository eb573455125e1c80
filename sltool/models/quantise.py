"""Rounding feature maps to the levels of a quantisation, so that a layer can be trained through it.

The gradient passes straight through (Bengio, Leonard & Courville, "Estimating or Propagating
Gradients Through Stochastic Neurons for Conditional Computation", 2013).
"""

from __future__ import annotations

import torch

from sltool.study.schema import Levels


def nearest_level(maps: torch.Tensor, levels: Levels) -> torch.Tensor:
    """Feature maps (n, ...) -> the index of the nearest level of each value, uint8.

    Values beyond the range get the nearest end; half-way between two levels, the higher one.
    """
    steps = (maps.detach() - levels.low) / levels.step
    return (steps + 0.5).floor().clamp(0, 2**levels.bits - 1).to(torch.uint8)


def quantise(maps: torch.Tensor, levels: Levels | None) -> torch.Tensor:
    """Feature maps (n, ...) as they are read from a shard, with the gradient of `maps`."""
    if levels is None:
        return maps
    rounded = levels.low + nearest_level(maps, levels).to(maps.dtype) * levels.step
    return maps + (rounded - maps).detach()
