"""Temperature scaling, and the expected calibration error.

Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", 2017 (arXiv
1706.04599): the network's outputs are divided by one number, the temperature, which minimises the
cross-entropy on validation samples. The most probable class stays the same.
"""

from __future__ import annotations

import numpy as np

from sltool.metrics import Array
from sltool.weighted import class_indices

BINS = 15
# The logarithms of 1 / temperature that are searched: temperatures from 0.0025 to 400.
LOWEST, HIGHEST, STEPS = -6.0, 6.0, 60


def fit_temperature(y_true: Array, y_pred: Array) -> float | None:
    """The temperature of the least cross-entropy.

    None if there is no such number: every sample is classified correctly, so that ever more
    confident probabilities fit better, or the probabilities fit no better than equal ones.

    Args:
        y_true: (N,) class indices.
        y_pred: (N,) probabilities of the positive class, or (N, classes).
    """
    logits = _logits(y_pred)
    chosen = logits[np.arange(len(y_true)), y_true.astype(int)]

    def slope(log_scale: float) -> float:
        scaled = _softmax(np.exp(log_scale) * logits)
        return float(((scaled * logits).sum(axis=1) - chosen).mean())

    low, high = LOWEST, HIGHEST
    # The cross-entropy is convex in 1 / temperature, so its slope changes sign at most once.
    if slope(low) >= 0 or slope(high) <= 0:
        return None
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return float(np.exp(-(low + high) / 2))


def calibrated(y_pred: Array, temperature: float | None) -> Array:
    """Probabilities (N,) or (N, classes) at this temperature; None changes nothing."""
    if temperature is None:
        return y_pred
    scaled = _softmax(_logits(y_pred) / temperature)
    return np.asarray(scaled if y_pred.ndim == 2 else scaled[:, 1])


def expected_calibration_error(y_true: Array, y_pred: Array) -> float:
    """sum_m |B_m| / n |accuracy(B_m) - confidence(B_m)| over 15 bins of equal width, 0 to 1.

    The confidence of a sample is the probability of its most probable class.
    """
    classes = class_indices(y_pred)
    columns = _columns(y_pred)
    confidence = columns[np.arange(len(classes)), classes]
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, weights=(classes == y_true) - confidence, minlength=BINS)
    return float(np.abs(gaps).sum() / len(y_true))


def _columns(y_pred: Array) -> Array:
    return y_pred if y_pred.ndim == 2 else np.stack([1 - y_pred, y_pred], axis=1)


def _logits(y_pred: Array) -> Array:
    """Logarithms of probabilities: logits up to a constant, which no softmax depends on."""
    return np.asarray(np.log(np.clip(_columns(y_pred.astype(float)), np.finfo(float).eps, 1)))


def _softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
