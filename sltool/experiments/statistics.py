"""Means over seeds, bootstrap intervals over test groups, and paired tests between arms.

A group is a patient: all rows of a patient are drawn together, also over the test sets of several
seeds. Each of the B draws takes as many patients as all test sets have, with replacement; a metric
with a weighted form is computed for many draws at once, from a matrix (B, N) of how often each row
was drawn. All arms use the same draws, so the difference of two arms is paired. A comparison
reports the mean over seeds, and its draws are means over seeds too (Efron & Tibshirani, "An
Introduction to the Bootstrap", 1993, chapter 13).

Percentiles of the draws are too narrow for few patients: the variance of the draws is too small by
the factor (n - 1) / n, and a mean of n patients follows Student's t with n - 1 degrees of freedom,
not a normal distribution. Intervals and p-values are expanded accordingly (Hesterberg, "What
Teachers Should Know About the Bootstrap", 2015, section 4.1).

A metric may be undefined for a draw: without a positive there is no sensitivity. Its value could
have been on either side of a bound, so the draw counts as outside both bounds, and as on both sides
of 0 for a p-value. If more than the percentile's share of draws are undefined, there is no
interval.
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
# Draws that are computed at a time, to limit memory.
BLOCK = 250


@dataclass(frozen=True)
class Table:
    """An arm's predictions for one seed's test rows; compared arms have the same order of rows.

    Attributes:
        y_true: (N,).
        y_pred: (N,) or (N, classes).
        groups: (N,) patients, whose names are the same in every seed.
    """

    y_true: Array
    y_pred: Array
    groups: Array


@dataclass(frozen=True)
class Interval:
    """A metric over all seeds.

    Attributes:
        mean, sd: over the seeds; sd is NaN for one seed.
        low, high: the 95 % bootstrap interval of the mean; NaN if there is none.
        draws: (B,) mean over seeds in each draw; NaN where the metric is undefined.
        seeds: the value for each seed.
        patients: the number of distinct patients.
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
        """The number of draws in which the metric is undefined."""
        return int(np.isnan(self.draws).sum())


@dataclass(frozen=True)
class Difference:
    """A metric of one arm minus that of another, on the same draws.

    Attributes:
        mean, low, high: as in `Interval`.
        p: two-sided; NaN where the metric of an arm is undefined.
        undefined: the number of draws in which the metric of either arm is undefined.
    """

    mean: float
    low: float
    high: float
    p: float
    undefined: int


def intervals(tables: Sequence[Table], names: Sequence[str], seed: int = 0) -> dict[str, Interval]:
    """Each named metric over the tables of one arm, one table per seed.

    Raises:
        BadDataError: a plug-in metric fails.
    """
    draws = {name: np.zeros(DRAWS) for name in names}
    values = [compute(list(names), table.y_true, table.y_pred) for table in tables]
    for rows, counts in _draws([table.groups for table in tables], seed):
        for table, drawn in zip(tables, counts, strict=True):
            for name in names:
                draws[name][rows] += resample(name, table.y_true, table.y_pred, drawn)
    patients = len(np.unique(np.concatenate([table.groups for table in tables])))
    return {
        name: _interval(
            [seed_values[name] for seed_values in values], draws[name] / len(tables), patients
        )
        for name in names
    }


def _draws(groups: Sequence[Array], seed: int) -> Iterator[tuple[slice, Iterator[Array]]]:
    """Yield (slice of the draws, for each test set (b, N) how often each row was drawn)."""
    patients = np.unique(np.concatenate(groups))
    members = [np.searchsorted(patients, rows) for rows in groups]
    rng = np.random.default_rng(seed)
    uniform = np.full(len(patients), 1 / len(patients))
    for start in range(0, DRAWS, BLOCK):
        counts = rng.multinomial(len(patients), uniform, size=min(BLOCK, DRAWS - start))
        yield slice(start, start + BLOCK), (counts[:, indices] for indices in members)


def _interval(values: Sequence[float | None], draws: Array, patients: int) -> Interval:
    seeds = tuple(np.nan if value is None else value for value in values)
    sd = float(np.std(seeds, ddof=1)) if len(seeds) > 1 else np.nan
    return Interval(float(np.mean(seeds)), sd, *_bounds(draws, patients), draws, seeds, patients)


def difference(figure: Interval, reference: Interval) -> Difference:
    """`figure` minus `reference`; both must come from the same test rows and bootstrap seed.

    p is twice the share of draws on the far side of 0, expanded for few patients.
    """
    draws = figure.draws - reference.draws
    mean = figure.mean - reference.mean
    undefined = int(np.isnan(draws).sum())
    tail = min(int((draws <= 0).sum()), int((draws >= 0).sum())) + undefined
    share = min(1.0, 2 * (1 + tail) / (len(draws) + 1))
    p = _expanded(share, figure.patients) if np.isfinite(mean) else np.nan
    return Difference(mean, *_bounds(draws, figure.patients), p, undefined)


def _bounds(draws: Array, patients: int) -> tuple[float, float]:
    """The bounds of the 95 % interval; NaN with too many undefined draws or a single patient."""
    if patients < 2:
        return np.nan, np.nan
    quantile = special.stdtrit(patients - 1, 0.025)
    share = special.ndtr(quantile * np.sqrt(patients / (patients - 1)))
    undefined = np.isnan(draws)
    # Interpolation next to an infinite draw gives inf or NaN: no bound either.
    with np.errstate(invalid="ignore"):
        low = np.quantile(np.where(undefined, -np.inf, draws), share)
        high = np.quantile(np.where(undefined, np.inf, draws), 1 - share)
    low, high = (float(bound) if np.isfinite(bound) else np.nan for bound in (low, high))
    return low, high


def _expanded(share: float, patients: int) -> float:
    """The p-value of a two-sided share of draws; inverse to the expansion in `_bounds`."""
    if patients < 2:
        return np.nan
    quantile = special.ndtri(share / 2) * np.sqrt((patients - 1) / patients)
    return float(2 * special.stdtr(patients - 1, quantile))
