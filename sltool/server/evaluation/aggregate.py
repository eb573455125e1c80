"""Scores of studies and patients from those of their images.

MURA is scored by the study: the mean of its images' probabilities (Rajpurkar et al., "MURA", 2017).
The images of a study share their label. A patient's studies may not: then a patient is positive if
any of the studies is; for regression, the mean counts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sltool.errors import BadDataError, UsageError
from sltool.metrics import Array
from sltool.study.layout import Level


def group_indices(
    groups: NDArray[np.bytes_], level: Level, dataset: str
) -> NDArray[np.int64] | None:
    """The number of each sample's study or patient, (N,); None where every image counts.

    Args:
        groups: (N,) `patient` or `patient/examination`.
        dataset: its name, for the message.

    Raises:
        UsageError: the level is 'study' and some samples belong to no examination.
    """
    if level == "image":
        return None
    parts = np.char.partition(groups, b"/")
    if level == "study" and not parts[:, 2].all():
        raise UsageError(
            f"the dataset '{dataset}' does not say which images make up a study",
            expected="--level image or --level patient",
        )
    names = groups if level == "study" else parts[:, 0]
    return np.asarray(np.unique(names, return_inverse=True)[1], dtype=np.int64)


def aggregate(
    kind: str, y_true: Array, y_pred: Array, groups: NDArray[np.int64] | None
) -> tuple[Array, Array]:
    """Labels and predictions of the groups: (G,) and (G,) or (G, classes).

    Args:
        kind: of the labels.
        y_true: (N,) labels.
        y_pred: (N,) or (N, classes) predictions.
        groups: (N,) the group's number of each; None: every sample is its own.

    Raises:
        BadDataError: samples of one group have different classes, of more than two.
    """
    if groups is None:
        return y_true, y_pred
    counts = np.bincount(groups)
    scores = np.zeros((len(counts), *y_pred.shape[1:]))
    np.add.at(scores, groups, y_pred)
    scores /= counts.reshape(-1, *(1,) * (y_pred.ndim - 1))
    if kind == "regression":
        return np.bincount(groups, weights=y_true) / counts, scores
    highest = np.full(len(counts), -np.inf)
    np.maximum.at(highest, groups, y_true)
    if kind == "multiclass" and (highest[groups] != y_true).any():
        raise BadDataError(
            "images of one study or patient have different classes",
            expected="one class for all of them",
            hint="evaluate with --level image",
        )
    return highest, scores
