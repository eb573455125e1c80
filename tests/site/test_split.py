"""How samples are assigned to splits and sites."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sltool.errors import UsageError
from sltool.site.split import Assignment, assign, parse_ratios, site_names
from sltool.study.schema import SPLITS, Split


def run(
    labels: np.ndarray, groups: list[str], ratios: tuple[float, ...] = (7, 2, 1), seed: int = 0
) -> Assignment:
    names = site_names(len(ratios))
    return assign(labels, groups, [""] * len(labels), Split(), ratios, names, seed)


def test_paper_split_is_exact_for_single_samples() -> None:
    labels = np.repeat([0, 1], [1229, 1252])
    done = run(labels, [str(n) for n in range(len(labels))])
    counts = done.counts()
    for code, split in enumerate(SPLITS):
        total = sum(site[split] for site in counts.values())
        assert total == pytest.approx(len(labels) * (0.8, 0.1, 0.1)[code], abs=1)
        for name, share in zip("ABC", (0.7, 0.2, 0.1), strict=True):
            assert counts[name][split] == pytest.approx(total * share, abs=1)
            here = labels[(done.site == "ABC".index(name)) & (done.split == code)]
            assert here.mean() == pytest.approx(labels.mean(), abs=0.05)


def test_regression_labels_are_stratified() -> None:
    labels = np.random.default_rng(0).gamma(3, 40, 5000)
    done = run(labels, [str(n) for n in range(5000)])
    for code in range(3):
        for site in range(3):
            part = labels[(done.site == site) & (done.split == code)]
            assert np.median(part) == pytest.approx(np.median(labels), rel=0.15)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(30, 200), st.integers(1, 8))
def test_each_group_is_in_exactly_one_split(seed: int, patients: int, most: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, most + 1, patients)
    groups = np.repeat(np.arange(patients), sizes)
    labels = np.repeat(rng.integers(0, 2, patients), sizes)
    done = run(labels, [str(group) for group in groups], ratios=(1, 1), seed=seed)
    places = {(group, done.split[n], done.site[n]) for n, group in enumerate(groups)}
    assert len(places) == patients
    assert sum(sum(split.values()) for split in done.counts().values()) == len(labels)


def test_the_seed_decides() -> None:
    labels = np.repeat([0, 1], 100)
    groups = [str(n) for n in range(200)]
    first, again, other = (run(labels, groups, seed=seed) for seed in (1, 1, 2))
    assert (first.split == again.split).all()
    assert not (first.split == other.split).all()


def test_official_lists_are_used() -> None:
    labels = np.tile([0, 1], 50)
    official = ["test"] * 20 + ["train"] * 80
    split = Split(official=True)
    done = assign(labels, [str(n) for n in range(100)], official, split, [1], ["A"], 0)
    assert (done.split[:20] == 2).all()
    assert (done.split[20:] != 2).all()
    assert (done.split == 1).sum() == 8


@pytest.mark.parametrize("text", ["", "7:x", "7:0:1", "7:-1", "nan:1", "inf:1", "7;2"])
def test_ratios_that_do_not_parse(text: str) -> None:
    with pytest.raises(UsageError, match="do not parse"):
        parse_ratios(text)


def test_a_site_left_empty_is_an_error() -> None:
    with pytest.raises(UsageError, match="site C would have no training sample"):
        run(np.tile([0, 1], 10), [str(n) for n in range(20)], ratios=(1000, 1000, 1))


def test_any_number_of_sites_is_named() -> None:
    names = site_names(30)
    assert names[:3] == ["A", "B", "C"]
    assert names[25:28] == ["Z", "AA", "AB"]
