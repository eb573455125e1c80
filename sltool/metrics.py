"""The paper's equations and the clinical ones.

A metric takes `y_true` (N,) and `y_pred`: predicted values (N,) for regression; otherwise
probabilities of the positive class (N,), or of each class (N, classes). It returns a number, NaN
where it is not defined for the data. scikit-learn computes it wherever it has it, but for plain
means: it takes a second to import.

Facts at registration: `kinds`, the kinds of labels that it is for (default: all); `better`,
'higher' or 'lower'; `unit`, 'label' for the label's own, or '%'.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sltool.errors import UsageError
from sltool.registry import metrics

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
        if kind not in metrics.entry(name).facts.get("kinds", (kind,)):
            raise UsageError(
                f"the metric '{name}' is not for {kind} labels",
                expected=f"one of {', '.join(metrics_for(kind))}",
            )


def compute(names: list[str], y_true: Array, y_pred: Array) -> dict[str, float | None]:
    """Each named metric; None where it is not defined for these samples."""
    values = {name: float(metrics.get(name)(y_true, y_pred)) for name in names}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def metrics_for(kind: str) -> list[str]:
    """The names of the metrics for this kind of labels."""
    return [one.name for one in metrics.entries() if kind in one.facts.get("kinds", (kind,))]


def class_numbers(y_pred: Array) -> Array:
    """Probabilities -> class numbers (N,): the likeliest class; for two classes, from 0.5 on."""
    return y_pred.argmax(1) if y_pred.ndim == 2 else (y_pred >= 0.5).astype(int)


def _of_each_class(y_true: Array, y_pred: Array) -> tuple[Array, Array]:
    """One-hot truth and probabilities, both (N, classes), for one-against-rest averages."""
    return np.eye(y_pred.shape[1])[y_true.astype(int)], y_pred


def _both_classes(y_true: Array, y_pred: Array) -> bool:
    present = len(np.unique(y_true))
    return present == (y_pred.shape[1] if y_pred.ndim == 2 else 2)


@metrics.register("accuracy", kinds=CLASSES, better="higher")
def accuracy(y_true: Array, y_pred: Array) -> float:
    """Share of samples whose class is right: 1/n sum [c_i = y_i], c the likeliest class."""
    return float(np.mean(y_true == class_numbers(y_pred)))


@metrics.register("bce", kinds=CLASSES, better="lower")
def bce(y_true: Array, y_pred: Array) -> float:
    """(Binary) cross-entropy: -1/n sum ln p_i, p_i the probability given to the true class."""
    from sklearn.metrics import log_loss

    classes = y_pred.shape[1] if y_pred.ndim == 2 else 2
    return float(log_loss(y_true, y_pred.astype(float), labels=list(range(classes))))


@metrics.register("auroc", kinds=CLASSES, better="higher")
def auroc(y_true: Array, y_pred: Array) -> float:
    """Area under the ROC curve: P(p of a positive > p of a negative); mean of one-against-rest."""
    from sklearn.metrics import roc_auc_score

    if not _both_classes(y_true, y_pred):
        return math.nan
    if y_pred.ndim == 2:
        return float(roc_auc_score(*_of_each_class(y_true, y_pred), average="macro"))
    return float(roc_auc_score(y_true, y_pred))


@metrics.register("auprc", kinds=CLASSES, better="higher")
def auprc(y_true: Array, y_pred: Array) -> float:
    """Average precision: sum_k (R_k - R_{k-1}) P_k over thresholds; mean of one-against-rest."""
    from sklearn.metrics import average_precision_score

    if not _both_classes(y_true, y_pred):
        return math.nan
    if y_pred.ndim == 2:
        return float(average_precision_score(*_of_each_class(y_true, y_pred), average="macro"))
    return float(average_precision_score(y_true, y_pred))


@metrics.register("f1", kinds=CLASSES, better="higher")
def f1(y_true: Array, y_pred: Array) -> float:
    """2 TP / (2 TP + FP + FN) of the positive class; with more classes, the mean (macro F1)."""
    from sklearn.metrics import f1_score

    average = "macro" if y_pred.ndim == 2 else "binary"
    return float(f1_score(y_true, class_numbers(y_pred), average=average, zero_division=0))


@metrics.register("sensitivity", kinds=CLASSES, better="higher")
def sensitivity(y_true: Array, y_pred: Array) -> float:
    """TP / (TP + FN), the recall of the positive class; with more classes, their mean."""
    return _recall(y_true, y_pred, positive=1)


@metrics.register("specificity", kinds=("binary",), better="higher")
def specificity(y_true: Array, y_pred: Array) -> float:
    """TN / (TN + FP), the recall of the negative class."""
    return _recall(y_true, y_pred, positive=0)


def _recall(y_true: Array, y_pred: Array, positive: int) -> float:
    from sklearn.metrics import recall_score

    numbers = class_numbers(y_pred)
    if y_pred.ndim == 2:
        return float(recall_score(y_true, numbers, average="macro", zero_division=0))
    if not (y_true == positive).any():
        return math.nan
    return float(recall_score(y_true, numbers, pos_label=positive))


@metrics.register("kappa", kinds=CLASSES, better="higher")
def kappa(y_true: Array, y_pred: Array) -> float:
    """Cohen's kappa: (p_o - p_e) / (1 - p_e), agreement beyond chance."""
    from sklearn.metrics import cohen_kappa_score

    numbers = class_numbers(y_pred)
    if len(np.unique(np.concatenate([y_true.astype(int), numbers]))) < 2:
        return math.nan
    return float(cohen_kappa_score(y_true, numbers))


@metrics.register("mse", kinds=REGRESSION, better="lower")
def mse(y_true: Array, y_pred: Array) -> float:
    """Mean squared error: 1/n sum (y - p)^2."""
    return float(np.mean((y_true - y_pred) ** 2))


@metrics.register("mae", kinds=REGRESSION, better="lower", unit="label")
def mae(y_true: Array, y_pred: Array) -> float:
    """Mean absolute error: 1/n sum |y - p|."""
    return float(np.mean(np.abs(y_true - y_pred)))


@metrics.register("rmse", kinds=REGRESSION, better="lower", unit="label")
def rmse(y_true: Array, y_pred: Array) -> float:
    """Root of the mean squared error: sqrt(1/n sum (y - p)^2)."""
    return math.sqrt(mse(y_true, y_pred))


def squared_log_errors(y_true: Array, y_pred: Array) -> Array:
    """(ln(1 + y) - ln(1 + p))^2 of each sample; a prediction below 0 counts as 0."""
    return np.asarray((np.log1p(y_true) - np.log1p(np.maximum(y_pred, 0))) ** 2)


@metrics.register("msle", kinds=REGRESSION, better="lower")
def msle(y_true: Array, y_pred: Array) -> float:
    """Mean squared log error (the paper's eq. 3): 1/n sum (ln(1+y) - ln(1+p))^2."""
    return float(squared_log_errors(y_true, y_pred).mean())


@metrics.register("rmsle", kinds=REGRESSION, better="lower")
def rmsle(y_true: Array, y_pred: Array) -> float:
    """Root mean squared log error (the paper's eq. 4): sqrt(MSLE)."""
    return math.sqrt(msle(y_true, y_pred))


@metrics.register("male", kinds=REGRESSION, better="lower")
def male(y_true: Array, y_pred: Array) -> float:
    """Mean absolute log error: 1/n sum |ln(1+y) - ln(1+p)|; what the paper's 'RMSLE' fits."""
    return float(np.sqrt(squared_log_errors(y_true, y_pred)).mean())


def symmetric_errors(y_true: Array, y_pred: Array) -> Array:
    """|y - p| / (|y| + |p|) of each sample; 0 where both are 0."""
    size = np.abs(y_true) + np.abs(y_pred)
    return np.asarray(np.abs(y_true - y_pred) / np.where(size == 0, 1, size))


@metrics.register("smape", kinds=REGRESSION, better="lower", unit="%")
def smape(y_true: Array, y_pred: Array) -> float:
    """Symmetric error in % (eq. 5, no factor 2): 100/n sum |y-p| / (|y|+|p|)."""
    return float(100 * symmetric_errors(y_true, y_pred).mean())


@metrics.register("r2", kinds=REGRESSION, better="higher")
def r2(y_true: Array, y_pred: Array) -> float:
    """Coefficient of determination: 1 - sum (y - p)^2 / sum (y - mean y)^2."""
    from sklearn.metrics import r2_score

    return float(r2_score(y_true, y_pred)) if len(y_true) > 1 else math.nan
