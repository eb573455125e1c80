"""The built-in metrics: those of the paper, and common clinical ones.

A metric takes `y_true` (N,) and `y_pred`: predicted values (N,) for regression; otherwise
probabilities of the positive class (N,), or of each class (N, classes). It returns a number, NaN
if the metric is not defined for the data.

A metric may have a weighted form, which makes the bootstrap fast; `sltool.weighted.weighted`
derives the metric from it, so that there is a single definition. A metric without a weighted form
is called with the drawn rows.

Facts given at registration: `kinds`, the kinds of labels that it applies to (default: all);
`better`, 'higher' or 'lower'; `unit`, 'label' for the label's unit, or '%'.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sltool.errors import BadDataError, UsageError
from sltool.registry import Entry, metrics
from sltool.weighted import (
    Metric,
    by_threshold,
    class_indices,
    confusion,
    mean,
    mean_of_defined,
    weighted,
)

Array = NDArray[Any]

CLASSES = ("binary", "multiclass")
REGRESSION = ("regression",)


def check_metrics(names: list[str], kind: str) -> None:
    """Raise unless every name is a metric for this kind of labels.

    Raises:
        UnknownNameError: there is no metric of that name.
        UsageError: a metric is not for this kind of labels.
    """
    for name in names:
        if not _is_for(metrics.entry(name), kind):
            raise UsageError(
                f"the metric '{name}' is not for {kind} labels",
                expected=f"one of {', '.join(metrics_for(kind))}",
            )


def _is_for(entry: Entry[Metric], kind: str) -> bool:
    return kind in entry.facts.get("kinds", (kind,))


def metrics_for(kind: str) -> list[str]:
    """The names of the metrics for this kind of labels."""
    return [entry.name for entry in metrics.entries() if _is_for(entry, kind)]


def plugin_metrics(kind: str) -> list[str]:
    """The names of the plug-in metrics for this kind of labels."""
    return [name for name in metrics_for(kind) if metrics.entry(name).origin != "built-in"]


def compute(names: list[str], y_true: Array, y_pred: Array) -> dict[str, float | None]:
    """Each named metric; None if it is not defined for these samples."""
    values = {name: _value(metrics.entry(name), y_true, y_pred) for name in names}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def resample(name: str, y_true: Array, y_pred: Array, counts: Array) -> Array:
    """(B,) a metric of B resamples; NaN where it is undefined for a resample.

    Args:
        counts: (B, N) how often each row was drawn; whole numbers.
    """
    entry = metrics.entry(name)
    form = getattr(entry.object, "weighted", None)
    if form is not None:
        values = form(y_true, y_pred, counts.astype(float))
    else:
        drawn = (np.repeat(np.arange(len(y_true)), row.astype(int)) for row in counts)
        values = np.array(
            [_value(entry, y_true[rows], y_pred[rows]) if len(rows) else math.nan for rows in drawn]
        )
    return np.where(np.isfinite(values), values, math.nan)


def _value(entry: Entry[Metric], y_true: Array, y_pred: Array) -> float:
    try:
        return float(entry.object(y_true, y_pred))
    except Exception as error:
        if entry.origin == "built-in":
            raise
        raise BadDataError(
            f"the metric '{entry.name}' fails: {type(error).__name__}: {error}",
            where=entry.origin,
            expected="a number, or NaN if the metric is not defined for the samples",
            hint="correct the plug-in, or run without it",
        ) from error


def _one_against_rest(
    score: Callable[[Array, Array], Array], y_true: Array, y_pred: Array, weights: Array
) -> Array:
    """The score of the positive class; for multiclass labels, the mean of one-against-rest scores.

    Args:
        score: takes the two arrays that `by_threshold` returns.
    """
    if y_pred.ndim == 1:
        return score(*by_threshold(y_true == 1, y_pred, weights))
    scores = [
        score(*by_threshold(y_true == class_index, column, weights))
        for class_index, column in enumerate(y_pred.T)
    ]
    return np.asarray(np.mean(scores, axis=0))


@metrics.register("accuracy", kinds=CLASSES, better="higher")
@weighted
def accuracy(y_true: Array, y_pred: Array, weights: Array) -> Array:
    """Share of samples classified correctly: 1/n sum [c_i = y_i], c the most probable class."""
    return mean((class_indices(y_pred) == y_true).astype(float), weights)


@metrics.register("bce", kinds=CLASSES, better="lower")
@weighted
def bce(y_true: Array, y_pred: Array, weights: Array) -> Array:
    """(Binary) cross-entropy: -1/n sum ln p_i, p_i the predicted probability of the true class."""
    predicted = y_pred.astype(float)
    columns = predicted if predicted.ndim == 2 else np.stack([1 - predicted, predicted], axis=1)
    chosen = columns[np.arange(len(y_true)), y_true.astype(int)]
    return mean(-np.log(np.clip(chosen, np.finfo(float).eps, 1)), weights)


@metrics.register("auroc", kinds=CLASSES, better="higher")
@weighted
def auroc(y_true: Array, y_pred: Array, weights: Array) -> Array:
    """Area under the ROC curve: P(p of a positive > p of a negative); mean of one-against-rest."""
    return _one_against_rest(_area, y_true, y_pred, weights)


def _area(positives: Array, negatives: Array) -> Array:
    """Mann-Whitney; ties count half."""
    below = negatives.sum(axis=1, keepdims=True) - np.cumsum(negatives, axis=1) + negatives / 2
    pairs = positives.sum(axis=1) * negatives.sum(axis=1)
    return np.asarray((positives * below).sum(axis=1) / pairs)


@metrics.register("auprc", kinds=CLASSES, better="higher")
@weighted
def auprc(y_true: Array, y_pred: Array, weights: Array) -> Array:
    """Average precision: sum_k (R_k - R_{k-1}) P_k over thresholds; mean of one-against-rest."""
    return _one_against_rest(_average_precision, y_true, y_pred, weights)


def _average_precision(positives: Array, negatives: Array) -> Array:
    above = np.cumsum(positives, axis=1)
    selected = above + np.cumsum(negatives, axis=1)
    precision = np.where(selected > 0, above / selected, 0)
    score = (positives * precision).sum(axis=1) / above[:, -1]
    # Undefined with a single class, as AUROC is.
    return np.asarray(np.where(negatives.sum(axis=1) > 0, score, np.nan))


@metrics.register("f1", kinds=CLASSES, better="higher")
@weighted
def f1(y_true: Array, y_pred: Array, weights: Array) -> Array:
    """2 TP / (2 TP + FP + FN) of the positive class; for multiclass, the mean (macro F1)."""
    table = confusion(y_true, y_pred, weights)
    true_or_predicted = table.sum(axis=1) + table.sum(axis=2)
    scores = 2 * np.diagonal(table, axis1=1, axis2=2) / true_or_predicted
    if y_pred.ndim == 2:
        return mean_of_defined(scores)
    drawn = weights.sum(axis=1) > 0
    return np.asarray(np.where((true_or_predicted[:, 1] == 0) & drawn, 0, scores[:, 1]))


@metrics.register("sensitivity", kinds=CLASSES, better="higher")
@weighted
def sensitivity(y_true: Array, y_pred: Array, weights: Array) -> Array:
    """TP / (TP + FN), the recall of the positive class; the mean over the classes that occur."""
    recalls = _recalls(y_true, y_pred, weights)
    return mean_of_defined(recalls) if y_pred.ndim == 2 else np.asarray(recalls[:, 1])


@metrics.register("specificity", kinds=("binary",), better="higher")
@weighted
def specificity(y_true: Array, y_pred: Array, weights: Array) -> Array:
    """TN / (TN + FP), the recall of the negative class."""
    return np.asarray(_recalls(y_true, y_pred, weights)[:, 0])


def _recalls(y_true: Array, y_pred: Array, weights: Array) -> Array:
    """(B, classes); NaN for a class that no sample has."""
    table = confusion(y_true, y_pred, weights)
    return np.asarray(np.diagonal(table, axis1=1, axis2=2) / table.sum(axis=2))


@metrics.register("kappa", kinds=CLASSES, better="higher")
@weighted
def kappa(y_true: Array, y_pred: Array, weights: Array) -> Array:
    """Cohen's kappa: (p_o - p_e) / (1 - p_e), agreement beyond chance."""
    table = confusion(y_true, y_pred, weights)
    total = table.sum(axis=(1, 2))
    observed = np.trace(table, axis1=1, axis2=2) / total
    chance = (table.sum(axis=1) * table.sum(axis=2)).sum(axis=1) / total**2
    return np.asarray((observed - chance) / (1 - chance))


@metrics.register("mse", kinds=REGRESSION, better="lower")
@weighted
def mse(y_true: Array, y_pred: Array, weights: Array) -> Array:
    """Mean squared error: 1/n sum (y - p)^2."""
    return mean((y_true - y_pred) ** 2, weights)


@metrics.register("mae", kinds=REGRESSION, better="lower", unit="label")
@weighted
def mae(y_true: Array, y_pred: Array, weights: Array) -> Array:
    """Mean absolute error: 1/n sum |y - p|."""
    return mean(np.abs(y_true - y_pred), weights)


@metrics.register("rmse", kinds=REGRESSION, better="lower", unit="label")
@weighted
def rmse(y_true: Array, y_pred: Array, weights: Array) -> Array:
    """Root of the mean squared error: sqrt(1/n sum (y - p)^2)."""
    return np.asarray(np.sqrt(mean((y_true - y_pred) ** 2, weights)))


def squared_log_errors(y_true: Array, y_pred: Array) -> Array:
    """(ln(1 + y) - ln(1 + p))^2 of each sample; a prediction below 0 counts as 0."""
    return np.asarray((np.log1p(y_true) - np.log1p(np.maximum(y_pred, 0))) ** 2)


@metrics.register("msle", kinds=REGRESSION, better="lower")
@weighted
def msle(y_true: Array, y_pred: Array, weights: Array) -> Array:
    """Mean squared log error (the paper's eq. 3): 1/n sum (ln(1+y) - ln(1+p))^2."""
    return mean(squared_log_errors(y_true, y_pred), weights)


@metrics.register("rmsle", kinds=REGRESSION, better="lower")
@weighted
def rmsle(y_true: Array, y_pred: Array, weights: Array) -> Array:
    """Root mean squared log error (the paper's eq. 4): sqrt(MSLE)."""
    return np.asarray(np.sqrt(mean(squared_log_errors(y_true, y_pred), weights)))


@metrics.register("male", kinds=REGRESSION, better="lower")
@weighted
def male(y_true: Array, y_pred: Array, weights: Array) -> Array:
    """Mean absolute log error: 1/n sum |ln(1+y) - ln(1+p)|; what the paper's 'RMSLE' fits."""
    return mean(np.sqrt(squared_log_errors(y_true, y_pred)), weights)


def symmetric_errors(y_true: Array, y_pred: Array) -> Array:
    """|y - p| / (|y| + |p|) of each sample; 0 where both are 0."""
    size = np.abs(y_true) + np.abs(y_pred)
    return np.asarray(np.abs(y_true - y_pred) / np.where(size == 0, 1, size))


@metrics.register("smape", kinds=REGRESSION, better="lower", unit="%")
@weighted
def smape(y_true: Array, y_pred: Array, weights: Array) -> Array:
    """Symmetric error in % (eq. 5, no factor 2): 100/n sum |y-p| / (|y|+|p|)."""
    return mean(100 * symmetric_errors(y_true, y_pred), weights)


@metrics.register("r2", kinds=REGRESSION, better="higher")
@weighted
def r2(y_true: Array, y_pred: Array, weights: Array) -> Array:
    """Coefficient of determination: 1 - sum (y - p)^2 / sum (y - mean y)^2."""
    # Centred first, to avoid cancellation when squares are subtracted.
    centred = y_true - y_true.mean()
    square = mean(centred**2, weights)
    spread = square - mean(centred, weights) ** 2
    # R2 is undefined for constant labels, whose spread is 0 up to rounding.
    spread = np.where(spread > 1e-12 * square, spread, np.nan)
    return np.asarray(1 - mean((y_true - y_pred) ** 2, weights) / spread)
