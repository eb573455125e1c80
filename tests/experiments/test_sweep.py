"""Sweeps: what a user types, and the grid he gets."""

from __future__ import annotations

import pytest

from sltool.errors import UsageError
from sltool.experiments.arms import expand
from sltool.experiments.sweep import baseline, grid


def test_no_sweep_is_one_cell() -> None:
    assert [cell.name for cell in grid([], {})] == ["base"]


def test_a_grid() -> None:
    cells = grid(["cut=0..2", "noise=0,0.5"], {})
    assert len(cells) == 6
    assert cells[1].name == "cut=0,noise=0.5"
    assert cells[1].settings({}) == ("model.cut=0", "encoding.noise=0.5")


def test_sites_share_alike_and_ratios_are_taken_as_they_are() -> None:
    shares = [cell.division("7:2:1").shares for cell in grid(["sites=1,3"], {})]
    assert shares == [[1], [1, 1, 1]]
    shares = [cell.division("7:2:1").shares for cell in grid(["ratios=5:3:2,8:1:1"], {})]
    assert shares == [[5, 3, 2], [8, 1, 1]]
    assert grid(["cut=1"], {})[0].division("7:2:1").shares == [7, 2, 1]


def test_sites_differ_by_a_swept_skew() -> None:
    cells = grid(["sites=10", "skew=0.1,iid"], {})
    assert [cell.division("7:2:1").describe() for cell in cells] == [
        "10 simulated sites, sizes equal, labels skewed with alpha 0.1",
        "10 simulated sites, sizes equal",
    ]
    assert cells[0].settings({}) == ()
    assert grid(["skew=1"], {})[0].division("5:5").shares == [5, 5]
    assert baseline("skew", ["0.1", "iid"]) == "iid"
    assert baseline("sites", ["3", "10"]) == "3"


def test_single_is_the_first_site_where_the_sites_are_swept() -> None:
    assert expand(["multi", "single"], ["sites=3,30"]) == ["multi", "single:1"]
    assert expand(["single"], ["cut=0..1"]) == ["single:A", "single:B", "single:C"]


def test_any_key_of_the_study_file() -> None:
    assert grid(["training.batch_size=32,64"], {})[1].settings({}) == ("training.batch_size=64",)


@pytest.mark.parametrize(
    "sweeps",
    [
        *(["cut"], ["depth=1"], ["sites=0"], ["sites=x"], ["cut="]),
        *(["cut=1", "cut=2"], ["sites=3", "ratios=1:1"]),
        *(["skew=0"], ["skew=-1"], ["skew=strong"], ["sites=3", "quantity-skew=0"]),
    ],
)
def test_mistakes(sweeps: list[str]) -> None:
    with pytest.raises(UsageError, match=r"sweep|swept"):
        grid(sweeps, {})


def test_sizes_are_swept_with_a_number_of_sites_alone() -> None:
    with pytest.raises(UsageError, match="without their number"):
        grid(["quantity-skew=0.5"], {})
