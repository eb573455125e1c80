"""Building blocks of weighted metrics: a single call computes a metric for many resamples.

N samples, B resamples; `weights` (B, N) is how often each sample counts in each resample.
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
    """Make a metric from its weighted form, which becomes its attribute `weighted`.

    Args:
        form: takes `y_true`, `y_pred` and weights (B, N), and returns (B,) values: a sample of
            weight 2 counts twice, one of weight 0 not at all. It need not handle 0/0: the result
            is NaN, and NumPy's warning is suppressed.
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


def class_indices(y_pred: Array) -> Array:
    """Probabilities -> (N,) index of the most probable class; for two classes, 1 from 0.5 on."""
    return y_pred.argmax(1) if y_pred.ndim == 2 else (y_pred >= 0.5).astype(int)


def mean(values: Array, weights: Array) -> Array:
    """(N,) values -> (B,) weighted means."""
    return np.asarray(weights @ values / weights.sum(axis=1))


def mean_of_defined(values: Array) -> Array:
    """(B, classes) -> (B,) means over the classes with a defined value."""
    defined = np.isfinite(values)
    return np.asarray(np.where(defined, values, 0).sum(axis=1) / defined.sum(axis=1))


def confusion(y_true: Array, y_pred: Array, weights: Array) -> Array:
    """(B, true class, predicted class) weighted counts."""
    classes = y_pred.shape[1] if y_pred.ndim == 2 else 2
    cells = y_true.astype(int) * classes + class_indices(y_pred)
    counts = [np.bincount(cells, weights=row, minlength=classes**2) for row in weights]
    return np.stack(counts).reshape(-1, classes, classes)


def by_threshold(positive: Array, predicted: Array, weights: Array) -> tuple[Array, Array]:
    """Weights of the positives and of the negatives at each distinct probability, highest first.

    Args:
        positive: (N,) bool.
        predicted: (N,) probabilities.

    Returns:
        Two arrays (B, distinct probabilities).
    """
    order = np.argsort(-predicted, kind="stable")
    starts = np.flatnonzero(np.diff(predicted[order], prepend=np.inf))
    sorted_weights, sorted_positive = weights[:, order], positive[order]
    positives = np.add.reduceat(sorted_weights * sorted_positive, starts, axis=1)
    return positives, np.add.reduceat(sorted_weights * ~sorted_positive, starts, axis=1)
