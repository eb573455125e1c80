"""The metrics against their equations, written out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sltool.errors import UnknownNameError, UsageError
from sltool.metrics import check_metrics, compute, metrics_for
from sltool.registry import metrics

RNG = np.random.default_rng(0)
Y = RNG.uniform(40, 200, 50)
P = Y + RNG.normal(0, 15, 50)
LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
CHANCES = np.array([0.1, 0.6, 0.2, 0.3, 0.9, 0.8, 0.4, 0.7, 0.55, 0.95])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mse", np.mean((Y - P) ** 2)),
        ("mae", np.mean(np.abs(Y - P))),
        ("rmse", math.sqrt(np.mean((Y - P) ** 2))),
        ("msle", np.mean((np.log(1 + Y) - np.log(1 + P)) ** 2)),
        ("rmsle", math.sqrt(np.mean((np.log(1 + Y) - np.log(1 + P)) ** 2))),
        ("male", np.mean(np.abs(np.log(1 + Y) - np.log(1 + P)))),
        ("smape", 100 / len(Y) * np.sum(np.abs(Y - P) / (np.abs(Y) + np.abs(P)))),
        ("r2", 1 - np.sum((Y - P) ** 2) / np.sum((Y - Y.mean()) ** 2)),
    ],
)
def test_regression(name: str, expected: float) -> None:
    assert compute([name], Y, P)[name] == pytest.approx(expected, rel=1e-12)


# Of the ten: TP 5, FN 1, FP 1, TN 3.
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("accuracy", 8 / 10),
        ("sensitivity", 5 / 6),
        ("specificity", 3 / 4),
        ("f1", 10 / 12),
        ("kappa", (0.8 - 0.52) / (1 - 0.52)),
        ("auroc", 22 / 24),
        ("bce", -np.mean(np.log(np.where(LABELS == 1, CHANCES, 1 - CHANCES)))),
    ],
)
def test_binary(name: str, expected: float) -> None:
    assert compute([name], LABELS, CHANCES)[name] == pytest.approx(expected, rel=1e-9)


def test_auprc_is_the_average_precision() -> None:
    order = np.argsort(-CHANCES)
    hits = LABELS[order]
    precision = np.cumsum(hits) / np.arange(1, 11)
    assert compute(["auprc"], LABELS, CHANCES)["auprc"] == pytest.approx(
        precision[hits == 1].mean()
    )


def test_multiclass() -> None:
    truth = np.array([0, 1, 2, 2])
    chances = np.array([[0.8, 0.1, 0.1], [0.2, 0.5, 0.3], [0.1, 0.2, 0.7], [0.6, 0.3, 0.1]])
    figures = compute(metrics_for("multiclass"), truth, chances)
    assert figures["accuracy"] == pytest.approx(3 / 4)
    assert figures["sensitivity"] == pytest.approx((1 + 1 + 1 / 2) / 3)
    assert figures["f1"] == pytest.approx((2 / 3 + 1 + 2 / 3) / 3)
    assert figures["bce"] == pytest.approx(-np.log([0.8, 0.5, 0.7, 0.1]).mean())
    assert "specificity" not in figures


def test_undefined_is_none_not_a_number() -> None:
    ones = np.ones(4, dtype=int)
    assert compute(["auroc", "specificity"], ones, np.full(4, 0.7)) == {
        "auroc": None,
        "specificity": None,
    }


def test_smape_without_the_factor_2_and_with_zeros() -> None:
    assert compute(["smape"], np.array([0.0, 1.0]), np.array([0.0, 3.0]))["smape"] == 25.0


def test_negative_predictions_count_as_zero_in_log_metrics() -> None:
    figures = compute(["rmsle"], np.array([math.e - 1]), np.array([-5.0]))
    assert figures["rmsle"] == pytest.approx(1)


def test_unknown_name_has_the_nearest_and_the_list() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'rmsle'") as error:
        check_metrics(["rmsl"], "regression")
    assert "smape" in error.value.expected


def test_wrong_kind_of_labels() -> None:
    with pytest.raises(UsageError, match="'auroc' is not for regression"):
        check_metrics(["auroc"], "regression")


def test_every_metric_says_what_it_is_and_which_way_is_better() -> None:
    for entry in metrics.entries():
        assert entry.summary
        assert entry.facts["better"] in ("higher", "lower")
