"""Scores of examinations and patients from the scores of their images.

MURA is scored per examination: the mean of its images' probabilities (Rajpurkar et al., "MURA",
2017). The images of an examination share a label; a patient's examinations may differ. A patient is
positive if any examination is; for regression, the mean of the labels counts. The `--level` of
examinations is called 'study', as in MURA.
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
    """The index of each sample's examination or patient, (N,); None for level 'image'.

    Args:
        groups: (N,) `patient` or `patient/examination`.
        dataset: its name, for the message.

    Raises:
        UsageError: the level is 'study' and the dataset does not record the examinations.
    """
    if level == "image":
        return None
    parts = np.char.partition(groups, b"/")
    if level == "study" and not parts[:, 2].all():
        raise UsageError(
            f"the dataset '{dataset}' does not say which images belong to one examination",
            expected="--level image or --level patient",
        )
    names = groups if level == "study" else parts[:, 0]
    return np.asarray(np.unique(names, return_inverse=True)[1], dtype=np.int64)


def aggregate(
    kind: str, y_true: Array, y_pred: Array, groups: NDArray[np.int64] | None
) -> tuple[Array, Array]:
    """Labels (G,) and mean predictions (G,) or (G, classes) of the groups.

    Args:
        kind: of the labels.
        y_true: (N,) labels.
        y_pred: (N,) or (N, classes) predictions.
        groups: (N,) the group index of each sample; None: every sample is its own group.

    Raises:
        BadDataError: multiclass samples of a group have different classes.
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
            "images of one examination or patient have different classes",
            expected="the same class for all of them",
            hint="evaluate with --level image",
        )
    return highest, scores
