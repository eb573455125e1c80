"""Figures rounded to their spread."""

from __future__ import annotations

from math import inf, nan

import pytest

from sltool.experiments.rounding import interval, p_value, rounded, with_spread


@pytest.mark.parametrize(
    ("mean", "sd", "shown"),
    [
        (0.09002, 0.01104, "0.090 ± 0.011"),
        (0.0902, 0.0996, "0.09 ± 0.10"),
        (12.3456, 0.95, "12.35 ± 0.95"),
        (12.3456, 0.996, "12.3 ± 1.0"),
        (12.3456, 1.96, "12.3 ± 2.0"),
        (1234.5, 130.4, "1230 ± 130"),
        (123456.0, 4321.0, "123500 ± 4300"),
        (-0.0001, 0.02, "0.000 ± 0.020"),
        (0.0, 0.5, "0.00 ± 0.50"),
        (7.364e-06, 2.61e-07, "7.36e-06 ± 2.6e-07"),
        (0.5, 2.6e-07, "5.0000000e-01 ± 2.6e-07"),
        # Of one seed, and where all seeds agree: by the interval.
        (0.09002, nan, "0.09"),
        (0.5, 0.0, "0.50 ± 0"),
        (nan, nan, "-"),
        (nan, 0.1, "-"),
        (inf, 0.1, "-"),
    ],
)
def test_a_mean_has_the_decimals_of_its_spread(mean: float, sd: float, shown: str) -> None:
    assert with_spread(mean, sd, 0.21) == shown


@pytest.mark.parametrize(
    ("value", "spread", "shown"),
    [(0.123456, nan, "0.1235"), (123456.7, 0.0, "123457"), (1.0, 0.0, "1"), (-0.0, 0.0, "0")],
)
def test_without_a_spread_four_digits_count(value: float, spread: float, shown: str) -> None:
    assert rounded(value, spread) == shown


def test_intervals_and_signs() -> None:
    assert interval(0.07123, 0.11096) == "0.071 to 0.111"
    assert interval(-0.0712, 0.1109, signed=True) == "-0.071 to +0.111"
    assert interval(1.0, 1.0) == "1 to 1"
    assert interval(nan, nan) == "- to -"


@pytest.mark.parametrize(
    ("p", "shown"),
    [(0.0009995, "< 0.001"), (0.0414, "0.041"), (0.0996, "0.10"), (0.974, "0.97"), (nan, "-")],
)
def test_p_values(p: float, shown: str) -> None:
    assert p_value(p) == shown
