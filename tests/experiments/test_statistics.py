"""The statistics against what is known of them."""

from __future__ import annotations

import numpy as np
import pytest

from sltool.experiments.statistics import DRAWS, WEIGHTED, Table, difference, intervals
from sltool.metrics import compute


def regression(rng: np.random.Generator, rows: int = 80, error: float = 5.0) -> Table:
    true = rng.normal(120, 30, rows).clip(20)
    return Table(true, true + rng.normal(0, error, rows), np.arange(rows).astype(str))


def binary(rng: np.random.Generator, rows: int = 80) -> Table:
    true = rng.integers(2, size=rows).astype(float)
    # Rounded, so that there are ties.
    given = np.round(np.clip(0.3 * true + 0.7 * rng.random(rows), 0.01, 0.99), 1)
    return Table(true, given, np.arange(rows).astype(str))


def multiclass(rng: np.random.Generator, rows: int = 80) -> Table:
    true = rng.integers(3, size=rows)
    given = np.eye(3)[true] + rng.random((rows, 3))
    return Table(true.astype(float), given / given.sum(1, keepdims=True), np.arange(rows))


@pytest.mark.parametrize(
    ("table", "names"),
    [
        (regression, ["mse", "rmse", "mae", "msle", "rmsle", "male", "smape", "r2"]),
        (
            binary,
            ["accuracy", "auroc", "bce", "f1", "kappa", "sensitivity", "specificity"],
        ),
        (multiclass, ["accuracy", "auroc", "bce", "f1", "kappa", "sensitivity"]),
    ],
)
def test_weighted_metrics_are_the_metrics_of_the_drawn_rows(table, names) -> None:  # type: ignore[no-untyped-def]
    """A row of weight 2 counts as if it stood there twice, one of weight 0 as if it did not."""
    rng = np.random.default_rng(0)
    one = table(rng)
    weights = rng.integers(0, 4, size=(5, len(one.y_true))).astype(float)
    for name in names:
        found = WEIGHTED[name](one.y_true, one.y_pred, weights)
        for draw, value in zip(weights, found, strict=True):
            rows = np.repeat(np.arange(len(draw)), draw.astype(int))
            expected = compute([name], one.y_true[rows], one.y_pred[rows])[name]
            assert value == pytest.approx(expected, abs=1e-9), name


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Of 200 samples with a known mean error, about 95 % of the intervals hold it."""
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        errors = rng.exponential(10.0, 60)
        table = Table(np.full(60, 100.0), 100 + errors, np.arange(60).astype(str))
        one = intervals([table], ["mae"])["mae"]
        hits += one.low <= 10.0 <= one.high
    assert 0.88 <= hits / 200 <= 0.98


def test_rows_of_one_patient_stay_together() -> None:
    """Ten equal rows a patient carry no more than one: the interval must not shrink."""
    rng = np.random.default_rng(2)
    single = regression(rng, rows=40)
    tenfold = Table(
        *(np.repeat(part, 10) for part in (single.y_true, single.y_pred, single.groups))
    )
    wide, also_wide = (intervals([table], ["mae"])["mae"] for table in (single, tenfold))
    as_if_alone = Table(tenfold.y_true, tenfold.y_pred, np.arange(400).astype(str))
    narrow = intervals([as_if_alone], ["mae"])["mae"]
    assert also_wide.high - also_wide.low == pytest.approx(wide.high - wide.low, rel=0.1)
    assert narrow.high - narrow.low < 0.5 * (wide.high - wide.low)


def test_a_patient_in_every_test_set_is_drawn_once_for_all() -> None:
    """Five tests of the same people are no surer than one; of other people they are."""
    table = regression(np.random.default_rng(6))
    others = [
        Table(table.y_true, table.y_pred, np.char.add(f"{number} ", table.groups))
        for number in range(5)
    ]
    one, same, apart = (
        intervals(tables, ["mae"])["mae"] for tables in ([table], [table] * 5, others)
    )
    assert (same.low, same.high) == pytest.approx((one.low, one.high))
    assert apart.high - apart.low == pytest.approx((one.high - one.low) / 5**0.5, rel=0.15)


def test_mean_and_spread_over_seeds() -> None:
    rng = np.random.default_rng(3)
    tables = [regression(rng, error=error) for error in (2.0, 4.0, 6.0)]
    one = intervals(tables, ["mae"])["mae"]
    alone = [compute(["mae"], table.y_true, table.y_pred)["mae"] for table in tables]
    assert one.seeds == pytest.approx(alone)
    assert one.mean == pytest.approx(np.mean(alone))
    assert one.sd == pytest.approx(np.std(alone, ddof=1))
    assert one.low < one.mean < one.high
    assert len(one.draws) == DRAWS


def test_a_real_difference_is_found_and_none_is_not() -> None:
    rng = np.random.default_rng(4)
    good, bad = regression(rng, error=4.0), regression(rng, error=8.0)
    bad = Table(good.y_true, good.y_true + (bad.y_pred - bad.y_true), good.groups)
    same = Table(good.y_true, good.y_true + rng.normal(0, 4.0, 80), good.groups)
    figures = [intervals([table], ["mae"])["mae"] for table in (good, bad, same)]
    found, none = difference(figures[1], figures[0]), difference(figures[2], figures[0])
    assert found.mean > 0
    assert found.low > 0
    assert found.p < 0.01
    assert none.p > 0.05
    assert difference(figures[0], figures[0]).p == 1.0


def test_the_same_seed_gives_the_same_interval() -> None:
    table = regression(np.random.default_rng(5))
    once, again = (intervals([table], ["smape"])["smape"] for _ in range(2))
    assert (once.low, once.high) == (again.low, again.high)
