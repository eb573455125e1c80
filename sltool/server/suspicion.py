"""Shards that are well formed and signed, and still look wrong: a person has to approve them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sltool.server.store import Segment

# A shard's scale may differ from the site's usual one by less than this factor.
SCALE_FACTOR = 100.0
# One sample alone is always of one class.
FEWEST = 4


class Impression:
    """What a shard's feature maps look like, gathered while they pass."""

    def __init__(self) -> None:
        self._squares = 0.0
        self._values = 0
        self._first: NDArray[Any] | None = None
        self._constant = True

    @property
    def rms(self) -> float:
        """Root mean square of all values."""
        return math.sqrt(self._squares / max(self._values, 1))

    @property
    def constant(self) -> bool:
        """Whether all samples have the same feature map."""
        return self._constant and self._values > 0

    def watch(self, blocks: Iterable[NDArray[Any]]) -> Iterator[NDArray[Any]]:
        """The same blocks (n, *feature_shape)."""
        for block in blocks:
            flat = block.reshape(-1).astype(np.float32)
            self._squares += float(flat @ flat)
            self._values += flat.size
            if self._first is None:
                self._first = block[0].copy()
            self._constant = self._constant and bool((block == self._first).all())
            yield block


def suspicion(impression: Impression, arriving: Segment, before: Sequence[Segment]) -> str:
    """Why a person should look at this shard; '' if there is no reason.

    Args:
        before: the site's segments in the store.
    """
    if impression.constant and arriving.samples > 1:
        return "all its feature maps are the same"
    usual = math.sqrt(_mean([one.rms**2 for one in before], [one.samples for one in before]))
    if usual and not usual / SCALE_FACTOR < arriving.rms < usual * SCALE_FACTOR:
        return (
            f"its feature maps have a scale (root mean square) of {arriving.rms:.3g}; "
            f"this site's usual one is {usual:.3g}"
        )
    seen = {number for one in before for number, count in enumerate(one.classes) if count}
    here = [number for number, count in enumerate(arriving.classes) if count]
    if len(here) == 1 and len(seen) > 1 and arriving.samples >= FEWEST:
        return (
            f"all its {arriving.samples} labels are of class {here[0]}; this site had {len(seen)}"
        )
    return ""


def _mean(values: list[float], weights: list[int]) -> float:
    total = sum(weights)
    if not total:
        return 0.0
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / total
