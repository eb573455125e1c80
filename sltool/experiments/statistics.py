"""Means over seeds, bootstrap intervals over test groups, and paired tests between arms.

A group is a patient: all rows stay together, also those in the test sets of several seeds. B times
as many patients as there are in all test sets are drawn with replacement; a metric that has a
weighted form is computed for many draws at once, from a matrix (B, N): how often each row was
drawn. The same draws serve every arm, so the difference of two arms is paired. The figure of a
comparison is the mean over seeds, and so are its draws (Efron & Tibshirani, "An Introduction to the
Bootstrap", 1993, chapter 13).

Percentiles of the draws are too narrow for few patients: their spread is that of n - 1 degrees of
freedom with the factor (n - 1) / n. Intervals and p-values are expanded to what Student's t has
(Hesterberg, "What Teachers Should Know About the Bootstrap", 2015, section 4.1).

A draw may leave a metric undefined: without a positive there is no sensitivity. Nobody knows on
which side of a bound it would lie, so it is counted on the far side of both bounds, and on both
sides of 0 in a p-value. Where more than the percentile's share are undefined, there is no interval.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from sltool.metrics import compute, resample

Array = NDArray[Any]

DRAWS = 2000
# Draws that are weighed at a time, so that memory stays small.
BLOCK = 250


@dataclass(frozen=True)
class Table:
    """An arm's predictions for one seed's test rows, in the order of their pseudonyms.

    Attributes:
        y_true: (N,).
        y_pred: (N,) or (N, classes).
        groups: (N,) patients, by names that mean the same in every seed.
    """

    y_true: Array
    y_pred: Array
    groups: Array


@dataclass(frozen=True)
class Interval:
    """A figure over all seeds.

    Attributes:
        mean, sd: over the seeds; sd is NaN for one seed.
        low, high: the 95 % bootstrap interval of the mean; NaN where there is none.
        draws: (B,) the bootstrap's means; NaN where a draw leaves the metric undefined.
        seeds: the figure of each seed.
        patients: how many were drawn from.
    """

    mean: float
    sd: float
    low: float
    high: float
    draws: Array
    seeds: tuple[float, ...]
    patients: int

    @property
    def undefined(self) -> int:
        """How many draws leave the metric undefined."""
        return int(np.isnan(self.draws).sum())


@dataclass(frozen=True)
class Difference:
    """One arm's figure minus another's, on the same draws.

    Attributes:
        mean, low, high: as of an `Interval`.
        p: two-sided; NaN where an arm has no figure.
        undefined: how many draws leave the metric undefined in one of the arms.
    """

    mean: float
    low: float
    high: float
    p: float
    undefined: int


def intervals(tables: Sequence[Table], names: Sequence[str], seed: int = 0) -> dict[str, Interval]:
    """The figure of each named metric over the seeds' tables of one arm.

    Raises:
        BadDataError: a plug-in's metric fails.
    """
    draws = {name: np.zeros(DRAWS) for name in names}
    figures = [compute(list(names), table.y_true, table.y_pred) for table in tables]
    for rows, counts in _draws([table.groups for table in tables], seed):
        for table, drawn in zip(tables, counts, strict=True):
            for name in names:
                draws[name][rows] += resample(name, table.y_true, table.y_pred, drawn)
    patients = len(np.unique(np.concatenate([table.groups for table in tables])))
    return {
        name: _interval([one[name] for one in figures], draws[name] / len(tables), patients)
        for name in names
    }


def _draws(groups: Sequence[Array], seed: int) -> Iterator[tuple[slice, Iterator[Array]]]:
    """Yield (rows of the draws, for each test set (b, N) how often each sample was drawn)."""
    patients = np.unique(np.concatenate(groups))
    members = [np.searchsorted(patients, one) for one in groups]
    rng = np.random.default_rng(seed)
    even = np.full(len(patients), 1 / len(patients))
    for start in range(0, DRAWS, BLOCK):
        counts = rng.multinomial(len(patients), even, size=min(BLOCK, DRAWS - start))
        yield slice(start, start + BLOCK), (counts[:, one] for one in members)


def _interval(figures: Sequence[float | None], draws: Array, patients: int) -> Interval:
    seeds = tuple(np.nan if figure is None else figure for figure in figures)
    sd = float(np.std(seeds, ddof=1)) if len(seeds) > 1 else np.nan
    return Interval(float(np.mean(seeds)), sd, *_bounds(draws, patients), draws, seeds, patients)


def difference(one: Interval, other: Interval) -> Difference:
    """`one` minus `other`; both must come from the same test rows and seed of the bootstrap.

    p is twice the share of draws on the far side of 0, expanded for few patients.
    """
    draws = one.draws - other.draws
    mean = one.mean - other.mean
    undefined = int(np.isnan(draws).sum())
    tail = min(int((draws <= 0).sum()), int((draws >= 0).sum())) + undefined
    share = min(1.0, 2 * (1 + tail) / (len(draws) + 1))
    p = _expanded(share, one.patients) if np.isfinite(mean) else np.nan
    return Difference(mean, *_bounds(draws, one.patients), p, undefined)


def _bounds(draws: Array, patients: int) -> tuple[float, float]:
    """The 95 % interval's ends; NaN where undefined draws or a single patient leave none."""
    if patients < 2:
        return np.nan, np.nan
    quantile = special.stdtrit(patients - 1, 0.025)
    share = special.ndtr(quantile * np.sqrt(patients / (patients - 1)))
    undefined = np.isnan(draws)
    # Between an infinite draw and the next there is no bound either.
    with np.errstate(invalid="ignore"):
        low = np.quantile(np.where(undefined, -np.inf, draws), share)
        high = np.quantile(np.where(undefined, np.inf, draws), 1 - share)
    low, high = (float(bound) if np.isfinite(bound) else np.nan for bound in (low, high))
    return low, high


def _expanded(share: float, patients: int) -> float:
    """The p-value of a two-sided share of draws; the inverse of what `_bounds` does."""
    if patients < 2:
        return np.nan
    quantile = special.ndtri(share / 2) * np.sqrt((patients - 1) / patients)
    return float(2 * special.stdtr(patients - 1, quantile))
