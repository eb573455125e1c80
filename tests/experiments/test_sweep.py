"""Sweeps: what a user types, and the grid he gets."""

from __future__ import annotations

import pytest

from sltool.errors import UsageError
from sltool.experiments.sweep import grid


def test_no_sweep_is_one_cell() -> None:
    assert [cell.name for cell in grid([], {})] == ["base"]


def test_a_grid() -> None:
    cells = grid(["cut=0..2", "noise=0,0.5"], {})
    assert len(cells) == 6
    assert cells[1].name == "cut=0,noise=0.5"
    assert cells[1].settings({}) == ("model.cut=0", "encoding.noise=0.5")


def test_sites_share_alike_and_ratios_are_taken_as_they_are() -> None:
    assert [cell.ratios("7:2:1") for cell in grid(["sites=1,3"], {})] == ["1", "1:1:1"]
    assert [cell.ratios("7:2:1") for cell in grid(["ratios=5:3:2,8:1:1"], {})] == ["5:3:2", "8:1:1"]
    assert grid(["cut=1"], {})[0].ratios("7:2:1") == "7:2:1"


def test_any_key_of_the_study_file() -> None:
    assert grid(["training.batch_size=32,64"], {})[1].settings({}) == ("training.batch_size=64",)


@pytest.mark.parametrize(
    "sweeps",
    [
        *(["cut"], ["depth=1"], ["sites=0"], ["sites=x"], ["cut="]),
        *(["cut=1", "cut=2"], ["sites=3", "ratios=1:1"]),
    ],
)
def test_mistakes(sweeps: list[str]) -> None:
    with pytest.raises(UsageError, match=r"sweep|swept"):
        grid(sweeps, {})
