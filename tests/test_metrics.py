"""The metrics against their equations, written out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sltool.errors import UnknownNameError, UsageError
from sltool.metrics import check_metrics, compute, metrics_for, resample
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


def test_an_undefined_metric_is_none() -> None:
    ones = np.ones(4, dtype=int)
    assert compute(["auroc", "specificity"], ones, np.full(4, 0.7)) == {
        "auroc": None,
        "specificity": None,
    }


def drawn_rows(kind: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    if kind == "regression":
        return Y, P
    classes = 2 if kind == "binary" else 3
    truth = rng.integers(classes, size=80)
    # Rounded, so that there are ties.
    given = np.round(np.eye(classes)[truth] + 1.5 * rng.random((80, classes)), 1)
    given /= given.sum(1, keepdims=True)
    return truth.astype(float), given[:, 1] if kind == "binary" else given


@pytest.mark.parametrize("kind", ["regression", "binary", "multiclass"])
def test_weights_are_the_multiplicities_of_rows(kind: str) -> None:
    y_true, y_pred = drawn_rows(kind)
    counts = np.random.default_rng(0).integers(0, 4, size=(5, len(y_true)))
    assert len(metrics_for(kind)) >= 7
    for name in metrics_for(kind):
        found = resample(name, y_true, y_pred, counts)
        for draw, value in zip(counts, found, strict=True):
            rows = np.repeat(np.arange(len(draw)), draw)
            expected = compute([name], y_true[rows], y_pred[rows])[name]
            assert value == pytest.approx(expected, abs=1e-9), name


def scikit_learns(y_true: np.ndarray, y_pred: np.ndarray) -> dict[str, float]:
    """The same metrics by scikit-learn, where it has them."""
    from sklearn import metrics as of

    if len(np.unique(y_true)) > 3:
        return {
            "mse": of.mean_squared_error(y_true, y_pred),
            "mae": of.mean_absolute_error(y_true, y_pred),
            "r2": of.r2_score(y_true, y_pred),
        }
    several = y_pred.ndim == 2
    numbers = y_pred.argmax(1) if several else (y_pred >= 0.5).astype(int)
    average = "macro" if several else "binary"
    truth = np.eye(3)[y_true.astype(int)] if several else y_true
    return {
        "accuracy": of.accuracy_score(y_true, numbers),
        "bce": of.log_loss(y_true, y_pred),
        "auroc": of.roc_auc_score(truth, y_pred, average="macro"),
        "auprc": of.average_precision_score(truth, y_pred, average="macro"),
        "f1": of.f1_score(y_true, numbers, average=average),
        "sensitivity": of.recall_score(y_true, numbers, average=average),
        "kappa": of.cohen_kappa_score(y_true, numbers),
        **({} if several else {"specificity": of.recall_score(y_true, numbers, pos_label=0)}),
    }


@pytest.mark.parametrize("kind", ["regression", "binary", "multiclass"])
def test_scikit_learn_agrees(kind: str) -> None:
    y_true, y_pred = drawn_rows(kind)
    expected = scikit_learns(y_true, y_pred)
    assert compute(list(expected), y_true, y_pred) == pytest.approx(expected)


def test_a_resample_that_does_not_define_a_metric_is_nan() -> None:
    counts = np.array([[1, 1, 1, 1], [2, 2, 0, 0], [0, 0, 2, 2], [0, 0, 0, 0]])
    truth, given = np.array([0.0, 0, 1, 1]), np.array([0.2, 0.4, 0.4, 0.9])
    for name in ("auroc", "auprc"):
        found = resample(name, truth, given, counts)
        assert np.isfinite(found).tolist() == [True, False, False, False], name
    assert np.isfinite(resample("sensitivity", truth, given, counts)).tolist() == [
        *(True, False, True, False)
    ]
    for name in metrics_for("binary"):
        assert np.isnan(resample(name, truth, given, counts)[3]), name
    constant = np.full(4, 7.3)
    assert np.isnan(resample("r2", constant, given, counts)).all()


def test_a_class_that_no_sample_has_is_left_out_of_the_mean() -> None:
    chances = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.2, 0.7]])
    figures = compute(["sensitivity", "f1"], np.array([0, 1, 1]), chances)
    assert figures["sensitivity"] == pytest.approx((1 + 1 / 2) / 2)
    assert figures["f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)


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
