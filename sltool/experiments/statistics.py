"""Means over seeds, bootstrap intervals over test groups, and paired tests between arms.

A group is a patient: all rows stay together, also those in the test sets of several seeds. B times
as many patients as there are in all test sets are drawn with replacement; every metric is computed
for all draws at once, from a matrix of weights (B, N): how often each row was drawn. The same draws
serve every arm, so the difference of two arms is paired. The figure of a comparison is the mean
over seeds, and so are its draws: percentiles of those means make the 95 % interval (Efron &
Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sltool.metrics import class_numbers, squared_log_errors, symmetric_errors

Array = NDArray[Any]
# (y_true, y_pred, weights (B, N)) -> (B,)
Weighted = Callable[[Array, Array, Array], Array]

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
        low, high: the 95 % bootstrap interval of the mean.
        draws: (B,) the bootstrap's means.
        seeds: the figure of each seed.
    """

    mean: float
    sd: float
    low: float
    high: float
    draws: Array
    seeds: tuple[float, ...]


@dataclass(frozen=True)
class Difference:
    """One arm's figure minus another's, on the same draws; p is two-sided."""

    mean: float
    low: float
    high: float
    p: float


def intervals(tables: Sequence[Table], names: Sequence[str], seed: int = 0) -> dict[str, Interval]:
    """The figure of each named metric over the seeds' tables of one arm.

    A metric that is not defined for one of the tables, as AUROC where all are of one class, is left
    out.
    """
    known = [name for name in names if name in WEIGHTED]
    draws = {name: np.zeros(DRAWS) for name in known}
    seeds: dict[str, list[float]] = {name: [] for name in known}
    for table in tables:
        whole = np.ones((1, len(table.y_true)))
        for name in known:
            with np.errstate(invalid="ignore", divide="ignore"):
                seeds[name].append(float(WEIGHTED[name](table.y_true, table.y_pred, whole)[0]))
    for rows, weighted in _draws([table.groups for table in tables], seed):
        for table, weights in zip(tables, weighted, strict=True):
            for name in known:
                # Of a small test set nobody may be drawn: then the draw has no figure.
                with np.errstate(invalid="ignore", divide="ignore"):
                    found = WEIGHTED[name](table.y_true, table.y_pred, weights)
                draws[name][rows] += found / len(tables)
    defined = [name for name in known if not np.isnan(seeds[name]).any()]
    return {name: _interval(seeds[name], draws[name]) for name in defined}


def _draws(groups: Sequence[Array], seed: int) -> Iterator[tuple[slice, Iterator[Array]]]:
    """Yield (rows of the draws, for each test set (b, N) how often each sample was drawn)."""
    patients = np.unique(np.concatenate(groups))
    members = [np.searchsorted(patients, one) for one in groups]
    rng = np.random.default_rng(seed)
    even = np.full(len(patients), 1 / len(patients))
    for start in range(0, DRAWS, BLOCK):
        counts = rng.multinomial(len(patients), even, size=min(BLOCK, DRAWS - start))
        yield slice(start, start + BLOCK), (counts[:, one].astype(float) for one in members)


def _interval(seeds: list[float], draws: Array) -> Interval:
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    sd = float(np.std(seeds, ddof=1)) if len(seeds) > 1 else float("nan")
    return Interval(float(np.mean(seeds)), sd, float(low), float(high), draws, tuple(seeds))


def difference(one: Interval, other: Interval) -> Difference:
    """`one` minus `other`; both must come from the same test rows and seed of the bootstrap.

    p is twice the share of draws on the far side of 0, never below 2 / (B + 1).
    """
    draws = one.draws - other.draws
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    tail = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    p = min(1.0, 2 * (1 + tail) / (len(draws) + 1))
    return Difference(one.mean - other.mean, float(low), float(high), p)


def _mean(values: Array, weights: Array) -> Array:
    return np.asarray(weights @ values / weights.sum(axis=1))


def _of_rows(errors: Callable[[Array, Array], Array]) -> Weighted:
    """A metric that is the mean of a value of each row."""
    return lambda y, p, weights: _mean(errors(y, p), weights)


def _root(metric: Weighted) -> Weighted:
    return lambda y, p, weights: np.sqrt(metric(y, p, weights))


def _log_loss(y: Array, p: Array) -> Array:
    columns = p if p.ndim == 2 else np.stack([1 - p, p], axis=1)
    chosen = columns[np.arange(len(y)), y.astype(int)]
    return np.asarray(-np.log(np.clip(chosen, np.finfo(float).eps, 1)))


def _r2(y: Array, p: Array, weights: Array) -> Array:
    spread = _mean(y**2, weights) - _mean(y, weights) ** 2
    return np.asarray(1 - _mean((y - p) ** 2, weights) / spread)


def _confusion(y: Array, p: Array, weights: Array) -> Array:
    """(B, true class, predicted class), weighted counts."""
    predicted = class_numbers(p)
    classes = p.shape[1] if p.ndim == 2 else 2
    cells = np.eye(classes * classes)[y.astype(int) * classes + predicted]
    return np.asarray((weights @ cells).reshape(-1, classes, classes))


def _kappa(y: Array, p: Array, weights: Array) -> Array:
    table = _confusion(y, p, weights)
    total = table.sum(axis=(1, 2))
    observed = np.trace(table, axis1=1, axis2=2) / total
    chance = (table.sum(axis=1) * table.sum(axis=2)).sum(axis=1) / total**2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((observed - chance) / (1 - chance))


def _recalls(y: Array, p: Array, weights: Array) -> Array:
    """(B, classes)"""
    table = _confusion(y, p, weights)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.diagonal(table, axis1=1, axis2=2) / table.sum(axis=2))


def _sensitivity(y: Array, p: Array, weights: Array) -> Array:
    recalls = _recalls(y, p, weights)
    return np.asarray(np.nanmean(recalls, axis=1) if p.ndim == 2 else recalls[:, 1])


def _specificity(y: Array, p: Array, weights: Array) -> Array:
    return np.asarray(_recalls(y, p, weights)[:, 0])


def _f1(y: Array, p: Array, weights: Array) -> Array:
    table = _confusion(y, p, weights)
    right = np.diagonal(table, axis1=1, axis2=2)
    named = table.sum(axis=1) + table.sum(axis=2)
    scores = np.divide(2 * right, named, out=np.zeros_like(named), where=named > 0)
    return np.asarray(scores.mean(axis=1) if p.ndim == 2 else scores[:, 1])


def _auroc(y: Array, p: Array, weights: Array) -> Array:
    """Mann-Whitney over all draws at once: ties count half; the mean of one-against-rest."""
    if p.ndim == 2:
        each = [_auroc(y == number, p[:, number], weights) for number in range(p.shape[1])]
        return np.asarray(np.mean(each, axis=0))
    values, place = np.unique(p, return_inverse=True)
    positive = np.zeros((len(weights), len(values)))
    negative = np.zeros_like(positive)
    at = (np.arange(len(weights))[:, None], place[None, :])
    np.add.at(positive, at, weights * (y == 1))
    np.add.at(negative, at, weights * (y != 1))
    below = np.cumsum(negative, axis=1) - negative / 2
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.asarray((positive * below).sum(axis=1) / pairs)


WEIGHTED: Mapping[str, Weighted] = {
    "accuracy": _of_rows(lambda y, p: (class_numbers(p) == y).astype(float)),
    "auroc": _auroc,
    "bce": _of_rows(_log_loss),
    "f1": _f1,
    "kappa": _kappa,
    "sensitivity": _sensitivity,
    "specificity": _specificity,
    "mse": _of_rows(lambda y, p: (y - p) ** 2),
    "rmse": _root(_of_rows(lambda y, p: (y - p) ** 2)),
    "mae": _of_rows(lambda y, p: np.abs(y - p)),
    "msle": _of_rows(squared_log_errors),
    "rmsle": _root(_of_rows(squared_log_errors)),
    "male": _of_rows(lambda y, p: np.sqrt(squared_log_errors(y, p))),
    "smape": _of_rows(lambda y, p: 100 * symmetric_errors(y, p)),
    "r2": _r2,
}
