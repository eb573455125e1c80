"""Shards that are well formed and signed, and still look wrong: a person has to approve them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sltool.server.store import Segment
from sltool.shard.payload import ID_BYTES

# A shard's scale may differ from the site's usual one by less than this factor.
SCALE_FACTOR = 100.0
# The scale is taken from every so many rows of a block: plenty to tell a factor of 100.
EVERY = 8
# The chance that, of all the shards of a study, a clean one is ever held for having one class
# alone. The shard that comes as the m-th may use FALSE_ALARMS / (m (m + 1)) of it, which add up to
# FALSE_ALARMS over any number of shards.
FALSE_ALARMS = 0.01


class ShardStatistics:
    """What a shard's feature maps look like, gathered while they pass."""

    def __init__(self) -> None:
        self._squares = 0.0
        self._values = 0
        self._first: NDArray[Any] | None = None
        self._constant = True

    @property
    def rms(self) -> float:
        """Root mean square of the values in every eighth row."""
        return math.sqrt(self._squares / max(self._values, 1))

    @property
    def constant(self) -> bool:
        """Whether all samples have the same feature map."""
        return self._constant and self._values > 0

    def watch(self, blocks: Iterable[NDArray[Any]]) -> Iterator[NDArray[Any]]:
        """The same blocks (n, *feature_shape)."""
        for block in blocks:
            flat = block[::EVERY].reshape(-1).astype(np.float32)
            self._squares += float(flat @ flat)
            self._values += flat.size
            if self._first is None:
                self._first = block[0].copy()
            self._constant = self._constant and bool((block == self._first).all())
            yield block


def quality_problem(
    statistics: ShardStatistics, arriving: Segment, stored: Sequence[Segment]
) -> str:
    """Why a person should look at this shard; '' if there is no reason.

    Args:
        stored: the segments in the store, of all sites.
    """
    before = [one for one in stored if one.site == arriving.site]
    if statistics.constant and arriving.samples > 1:
        return "all its feature maps are the same"
    usual = math.sqrt(_mean([one.rms**2 for one in before], [one.samples for one in before]))
    if usual and not usual / SCALE_FACTOR < arriving.rms < usual * SCALE_FACTOR:
        return (
            f"its feature maps have a scale (root mean square) of {arriving.rms:.3g}; "
            f"this site's usual one is {usual:.3g}"
        )
    return _of_one_class(arriving, before, len(stored) + 1)


def _of_one_class(arriving: Segment, before: Sequence[Segment], turn: int) -> str:
    """Why the labels, all of one class, cannot be chance.

    Two things can bring the samples of a shard together: the site's random order of samples, and
    the split by patients, whose samples mostly share a class. What either may do by chance is no
    reason, so the greater of the two probabilities counts.
    """
    here = [number for number, count in enumerate(arriving.classes) if count]
    if len(here) != 1:
        return ""
    chance = max(
        one_class_chance(arriving.classes, [one.classes for one in before]),
        one_class_chance(arriving.patients, [one.patients for one in before]),
    )
    if chance > FALSE_ALARMS / (turn * (turn + 1)):
        return ""
    others = sum(sum(one.classes) - one.classes[here[0]] for one in before)
    return (
        f"all its {arriving.samples} labels are of class {here[0]}; "
        f"{others} of this site's {sum(one.samples for one in before)} so far were not, "
        f"and chance brings that with a probability of {chance:.1g}"
    )


def one_class_chance(arriving: Sequence[int], before: Sequence[Sequence[int]]) -> float:
    """How probable it is that a shard of one class alone comes by chance.

    The exact test for two binomial samples (Fisher's): of all that the site has sent, this shard
    too, as many as it has are drawn; the probability that all are of one class, that of this shard
    or a rarer one. Unlike a binomial test with the share so far as if it were known, it keeps its
    false-alarm rate when little came before.

    Args:
        arriving: the count of each class, all in one.
        before: the same of each shard that the site sent before.
    """
    counts = [sum(column) for column in zip(arriving, *before, strict=True)]
    drawn, total = sum(arriving), sum(counts)
    most = counts[max(range(len(arriving)), key=lambda number: arriving[number])]
    return sum(
        math.exp(_log_choose(count, drawn) - _log_choose(total, drawn))
        for count in counts
        if drawn <= count <= most
    )


def class_counts(labels: NDArray[Any], classes: int) -> tuple[int, ...]:
    """How many of (N,) labels are of each class; () for regression, which has none."""
    return tuple(np.bincount(labels, minlength=classes).tolist()) if classes else ()


def patient_counts(
    labels: NDArray[Any], groups: NDArray[np.bytes_], classes: int
) -> tuple[int, ...]:
    """How many patients, by the (N,) groups, have samples of each class; () for regression."""
    if not classes:
        return ()
    patients = np.unique(groups.astype(f"S{ID_BYTES}"), return_inverse=True)[1]
    pairs = np.unique(patients * classes + labels)
    return class_counts(pairs % classes, classes)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _mean(values: list[float], weights: list[int]) -> float:
    total = sum(weights)
    if not total:
        return 0.0
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / total
