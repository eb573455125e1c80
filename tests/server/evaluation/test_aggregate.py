"""Scores of examinations and patients from those of their images."""

from __future__ import annotations

import numpy as np
import pytest

from sltool.errors import BadDataError, UsageError
from sltool.server.evaluation.aggregate import aggregate, group_indices

GROUPS = np.array([b"p1/a", b"p1/a", b"p1/b", b"p2/c"], dtype="S65")


def test_a_study_has_its_images_mean_and_their_label() -> None:
    groups = group_indices(GROUPS, "study", "mura")
    y_true, y_pred = aggregate(
        "binary", np.array([1.0, 1, 0, 1]), np.array([0.2, 0.6, 0.3, 0.9]), groups
    )
    assert y_true.tolist() == [1, 0, 1]
    assert y_pred == pytest.approx([0.4, 0.3, 0.9])


def test_a_patient_is_positive_if_any_study_is() -> None:
    groups = group_indices(GROUPS, "patient", "mura")
    y_true, y_pred = aggregate(
        "binary", np.array([1.0, 1, 0, 0]), np.array([0.2, 0.6, 0.4, 0.9]), groups
    )
    assert y_true.tolist() == [1, 0]
    assert y_pred == pytest.approx([0.4, 0.9])


def test_regression_takes_means_of_both() -> None:
    groups = group_indices(np.array([b"a", b"b", b"a"], dtype="S65"), "patient", "cholesterol")
    y_true, y_pred = aggregate(
        "regression", np.array([100.0, 50, 120]), np.array([90.0, 60, 100]), groups
    )
    assert y_true.tolist() == [110, 50]
    assert y_pred.tolist() == [95, 60]


def test_more_classes_are_averaged_by_class() -> None:
    groups = np.array([0, 0, 1])
    scores = np.array([[0.2, 0.8, 0], [0.4, 0.4, 0.2], [0, 0, 1]])
    y_true, y_pred = aggregate("multiclass", np.array([1.0, 1, 2]), scores, groups)
    assert y_true.tolist() == [1, 2]
    np.testing.assert_allclose(y_pred, [[0.3, 0.6, 0.1], [0, 0, 1]])


def test_images_stay_as_they_are() -> None:
    y_true, y_pred = np.array([1.0, 0]), np.array([0.7, 0.1])
    assert aggregate("binary", y_true, y_pred, group_indices(GROUPS, "image", "mura"))[1] is y_pred


def test_images_without_examination_and_mixed_classes_are_reported() -> None:
    with pytest.raises(UsageError, match="'covid-ct' does not say which images"):
        group_indices(np.array([b"p1", b"p2/a"], dtype="S65"), "study", "covid-ct")
    with pytest.raises(BadDataError, match="different classes"):
        aggregate("multiclass", np.array([0.0, 1]), np.eye(3)[:2], np.array([0, 0]))
