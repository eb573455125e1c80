"""The statistics against what is known of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sltool.errors import BadDataError
from sltool.experiments.statistics import DRAWS, Difference, Table, difference, intervals
from sltool.metrics import compute
from sltool.registry import metrics

Array = NDArray[Any]


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


def test_a_metric_without_a_weighted_form_is_resampled_as_it_is() -> None:
    """It has the interval of the same metric with a weighted form, and no other metric's."""

    @metrics.register("my-mae", kinds=("regression",), better="lower")
    def my_mae(y_true: Array, y_pred: Array) -> float:
        return float(np.abs(y_true - y_pred).mean())

    found = intervals([regression(np.random.default_rng(0))], ["mae", "my-mae"])
    assert found["my-mae"].draws == pytest.approx(found["mae"].draws)
    assert found["my-mae"].mean == pytest.approx(found["mae"].mean)


def test_a_plug_in_that_fails_is_named() -> None:
    @metrics.register("careless", better="lower")
    def careless(y_true: Array, y_pred: Array) -> float:
        return 1 / int((y_true > 1e9).sum())

    with pytest.raises(BadDataError, match="the metric 'careless' fails: ZeroDivisionError"):
        intervals([regression(np.random.default_rng(0))], ["careless"])


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Of 200 samples with a known mean error, about 95 % of the intervals hold it."""
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        errors = rng.exponential(10.0, 60)
        table = Table(np.full(60, 100.0), 100 + errors, np.arange(60).astype(str))
        found = intervals([table], ["mae"])["mae"]
        hits += found.low <= 10.0 <= found.high
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
        Table(table.y_true, table.y_pred, np.char.add(f"{seed} ", table.groups))
        for seed in range(5)
    ]
    single, same, apart = (
        intervals(tables, ["mae"])["mae"] for tables in ([table], [table] * 5, others)
    )
    assert (same.low, same.high) == pytest.approx((single.low, single.high))
    assert apart.high - apart.low == pytest.approx((single.high - single.low) / 5**0.5, rel=0.15)


def test_mean_and_spread_over_seeds() -> None:
    rng = np.random.default_rng(3)
    tables = [regression(rng, error=error) for error in (2.0, 4.0, 6.0)]
    found = intervals(tables, ["mae"])["mae"]
    alone = [compute(["mae"], table.y_true, table.y_pred)["mae"] for table in tables]
    assert found.seeds == pytest.approx(alone)
    assert found.mean == pytest.approx(np.mean(alone))
    assert found.sd == pytest.approx(np.std(alone, ddof=1))
    assert found.low < found.mean < found.high
    assert len(found.draws) == DRAWS


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


def one_positive(rows: int = 10) -> Table:
    """A third of the draws has no positive, and so neither sensitivity nor AUROC."""
    given = np.linspace(0.1, 0.9, rows)
    return Table(np.eye(1, rows, rows - 1)[0], given, np.arange(rows).astype(str))


def test_an_undefined_draw_counts_against_the_figure() -> None:
    """The other arm is better in every draw that says anything; a third of them says nothing."""
    table = one_positive()
    worse = Table(table.y_true, 1 - table.y_pred, table.groups)
    good, bad = (intervals([arm], ["auroc", "accuracy"]) for arm in (table, worse))
    missing = int(np.isnan(good["auroc"].draws).sum())
    assert missing == pytest.approx(DRAWS * 0.9**10, rel=0.15)
    assert good["auroc"].undefined == missing
    assert np.isnan([good["auroc"].low, good["auroc"].high]).all()
    found = difference(good["auroc"], bad["auroc"])
    assert np.nanmin(good["auroc"].draws - bad["auroc"].draws) > 0
    assert found.undefined == missing
    assert found.p >= 2 * missing / DRAWS
    assert good["accuracy"].undefined == 0
    assert np.isfinite(good["accuracy"].low)


def test_a_few_undefined_draws_only_widen_the_interval() -> None:
    """With 5 of 20 positive, 3 draws in 1,000 are undefined: the worst of all, and the best."""
    rng = np.random.default_rng(8)
    truth = (np.arange(20) < 5).astype(float)
    table = Table(truth, np.clip(0.3 * truth + 0.7 * rng.random(20), 0, 1), np.arange(20))
    found = intervals([table], ["auroc"])["auroc"]
    defined = found.draws[np.isfinite(found.draws)]
    assert 0 < found.undefined < 0.01 * DRAWS
    assert np.isfinite([found.low, found.high]).all()
    assert found.low < np.quantile(defined, 0.025)
    assert found.high >= np.quantile(defined, 0.975)


def test_what_is_undefined_for_the_whole_test_set_has_no_p_value() -> None:
    table = Table(np.ones(9), np.linspace(0.1, 0.9, 9), np.arange(9))
    undefined = intervals([table], ["auroc"])["auroc"]
    assert np.isnan([undefined.mean, undefined.low, undefined.high]).all()
    found = difference(undefined, undefined)
    assert np.isnan([found.mean, found.p]).all()
    assert found.undefined == undefined.undefined == DRAWS


def test_one_patient_has_no_interval() -> None:
    table = Table(np.full(5, 100.0), np.arange(100.0, 105), np.repeat("a", 5))
    found = intervals([table], ["mae"])["mae"]
    assert np.isnan([found.low, found.high, difference(found, found).p]).all()


def null_case(rng: np.random.Generator, metric: str, rows: int, positive: int) -> Difference:
    """Two arms that are equally good by construction, tested on the same few patients."""
    if metric == "mae":
        truth = np.full(rows, 100.0)
        arms = [truth + rng.exponential(10, rows) for _ in range(2)]
    else:
        truth = (np.arange(rows) < positive).astype(float)
        shared = truth + rng.normal(0, 0.5, rows) - 0.5
        arms = [1 / (1 + np.exp(-shared - rng.normal(0, 1, rows))) for _ in range(2)]
    tables = [Table(truth, given, np.arange(rows)) for given in arms]
    seed = int(rng.integers(2**31))
    first, other = (intervals([table], [metric], seed)[metric] for table in tables)
    return difference(first, other)


@pytest.mark.parametrize(
    ("metric", "rows", "positive"),
    [
        ("mae", 6, 0),
        ("mae", 12, 0),
        ("accuracy", 12, 4),
        ("sensitivity", 8, 1),
        ("auroc", 8, 1),
        ("auroc", 12, 3),
    ],
)
def test_p_values_are_small_at_the_stated_rate_without_a_difference(
    metric: str, rows: int, positive: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 300 comparisons, 5 % have p <= 0.05: 15, and by chance at most 25 (binomial, 1 in 100).

    Without counting undefined draws and expanding, it is 11 % (mae, 12) to 41 % (sensitivity).
    """
    monkeypatch.setattr("sltool.experiments.statistics.DRAWS", 500)
    rng = np.random.default_rng(9)
    small = sum(null_case(rng, metric, rows, positive).p <= 0.05 for _ in range(300))
    assert small <= 25
