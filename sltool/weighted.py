"""What weighted forms of metrics are made of: one call gives a metric for many resamples.

N samples, B resamples; `weights` (B, N) says how often each sample counts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Metric = Callable[[Array, Array], float]
# (y_true, y_pred, weights (B, N)) -> (B,)
WeightedForm = Callable[[Array, Array, Array], Array]


def weighted(form: WeightedForm) -> Metric:
    """A metric from its weighted form, which it keeps as `weighted`.

    Args:
        form: takes `y_true`, `y_pred` and weights (B, N), and returns B values: a row of weight 2
            counts as if it stood there twice, one of weight 0 as if it did not. 0/0 may be left
            to NumPy: it is NaN without a warning.
    """

    @wraps(form)
    def quiet(y_true: Array, y_pred: Array, weights: Array) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):
            return form(y_true, y_pred, weights)

    @wraps(form)
    def metric(y_true: Array, y_pred: Array) -> float:
        return float(quiet(y_true, y_pred, np.ones((1, len(y_true))))[0])

    metric.weighted = quiet  # type: ignore[attr-defined]
    return metric


def class_numbers(y_pred: Array) -> Array:
    """Probabilities -> class numbers (N,): the likeliest class; for two classes, from 0.5 on."""
    return y_pred.argmax(1) if y_pred.ndim == 2 else (y_pred >= 0.5).astype(int)


def mean(values: Array, weights: Array) -> Array:
    """(N,) values -> (B,) weighted means."""
    return np.asarray(weights @ values / weights.sum(axis=1))


def mean_of_defined(values: Array) -> Array:
    """(B, classes) -> (B,) means over the classes whose value is defined."""
    defined = np.isfinite(values)
    return np.asarray(np.where(defined, values, 0).sum(axis=1) / defined.sum(axis=1))


def confusion(y_true: Array, y_pred: Array, weights: Array) -> Array:
    """(B, true class, predicted class), weighted counts."""
    classes = y_pred.shape[1] if y_pred.ndim == 2 else 2
    cells = y_true.astype(int) * classes + class_numbers(y_pred)
    counts = [np.bincount(cells, weights=row, minlength=classes**2) for row in weights]
    return np.stack(counts).reshape(-1, classes, classes)


def by_threshold(positive: Array, given: Array, weights: Array) -> tuple[Array, Array]:
    """Weights of the positives and of the negatives at each distinct probability, highest first.

    Args:
        positive: (N,) bool.
        given: (N,) probabilities.

    Returns:
        Two arrays (B, distinct probabilities).
    """
    order = np.argsort(-given, kind="stable")
    starts = np.flatnonzero(np.diff(given[order], prepend=np.inf))
    sorted_weights, sorted_positive = weights[:, order], positive[order]
    positives = np.add.reduceat(sorted_weights * sorted_positive, starts, axis=1)
    return positives, np.add.reduceat(sorted_weights * ~sorted_positive, starts, axis=1)
