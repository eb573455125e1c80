"""Finds well-formed, signed shards with suspect data, which a person has to approve."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sltool.server.store import Segment
from sltool.shard.manifest import PREDICTION, Content
from sltool.shard.packing import unpack_values
from sltool.shard.payload import ID_BYTES

# A shard's scale must differ from the site's usual one by less than this factor.
SCALE_FACTOR = 100.0
# The scale is measured on every eighth row, which suffices to detect a factor of 100.
ROW_STRIDE = 8
# The probability that any clean shard of a study is quarantined because all its samples have the
# same class. The m-th shard is tested at the level FALSE_ALARM_RATE / (m (m + 1)); the levels of
# any count of shards sum to less than FALSE_ALARM_RATE.
FALSE_ALARM_RATE = 0.01


class ShardStatistics:
    """Statistics of a shard's feature maps, gathered while they are read.

    Args:
        content: the shard's; None: feature maps that are not quantised.
    """

    def __init__(self, content: Content | None = None) -> None:
        self._content = content
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
        """Yield the blocks (n, *row_shape) unchanged, and update the statistics."""
        content = self._content
        for block in blocks:
            rows = block[::ROW_STRIDE]
            if content is not None and content.scale is not None:
                rows = unpack_values(rows, content.scale, content.feature_shape)
            flat = rows.reshape(-1).astype(np.float32)
            self._squares += float(flat @ flat)
            self._values += flat.size
            if self._first is None:
                self._first = block[0].copy()
            self._constant = self._constant and bool((block == self._first).all())
            yield block


def quality_problem(
    statistics: ShardStatistics, arriving: Segment, stored: Sequence[Segment]
) -> str:
    """The reason to quarantine this shard; '' if there is none.

    Args:
        stored: the segments in the store, of all sites.
    """
    before = [segment for segment in stored if segment.site == arriving.site]
    if statistics.constant and arriving.samples > 1:
        return "all its feature maps are the same"
    squares = [segment.rms**2 for segment in before]
    usual = math.sqrt(_mean(squares, [segment.samples for segment in before]))
    if usual and not usual / SCALE_FACTOR < arriving.rms < usual * SCALE_FACTOR:
        return (
            f"its feature maps have a scale (root mean square) of {arriving.rms:.3g}; "
            f"this site's usual one is {usual:.3g}"
        )
    labelled = [segment for segment in before if segment.split != PREDICTION]
    return _single_class_problem(arriving, labelled, len(stored) + 1)


def _single_class_problem(arriving: Segment, before: Sequence[Segment], position: int) -> str:
    """Why labels that are all of the same class are unlikely to be chance; '' if they are not.

    The samples of a shard are a random draw of the site's samples, or of its patients, whose
    samples mostly share a class. The null hypothesis is that either draw produced the shard, so
    the larger of the two probabilities is tested.

    Args:
        position: of the shard in the order of arrival, from 1.
    """
    present = [index for index, count in enumerate(arriving.classes) if count]
    if len(present) != 1:
        return ""
    probability = max(
        single_class_probability(arriving.classes, [segment.classes for segment in before]),
        single_class_probability(arriving.patients, [segment.patients for segment in before]),
    )
    if probability > FALSE_ALARM_RATE / (position * (position + 1)):
        return ""
    class_index = present[0]
    others = sum(sum(segment.classes) - segment.classes[class_index] for segment in before)
    return (
        f"all its {arriving.samples} labels are of class {class_index}; "
        f"{others} of this site's {sum(segment.samples for segment in before)} so far were not, "
        f"which has a probability by chance of {probability:.1g}"
    )


def single_class_probability(arriving: Sequence[int], before: Sequence[Sequence[int]]) -> float:
    """The probability that a shard has a single class by chance.

    Fisher's exact test: a draw, as large as the shard, from all that the site has sent, this shard
    included; the probability that it consists of a single class which is at most as frequent as
    that of this shard. Unlike a binomial test against the class frequency so far, it keeps its
    false-alarm rate when the site has sent little before.

    Args:
        arriving: the count of each class, all but one zero.
        before: the same for each earlier shard of the site.
    """
    counts = [sum(column) for column in zip(arriving, *before, strict=True)]
    drawn, total = sum(arriving), sum(counts)
    most = counts[max(range(len(arriving)), key=lambda index: arriving[index])]
    return sum(
        math.exp(_log_choose(count, drawn) - _log_choose(total, drawn))
        for count in counts
        if drawn <= count <= most
    )


def class_counts(labels: NDArray[Any], classes: int) -> tuple[int, ...]:
    """The count of each class in (N,) labels; () for regression (`classes` is 0)."""
    return tuple(np.bincount(labels, minlength=classes).tolist()) if classes else ()


def patient_counts(
    labels: NDArray[Any], groups: NDArray[np.bytes_], classes: int
) -> tuple[int, ...]:
    """The count of patients, from (N,) groups, with samples of each class; () for regression."""
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
