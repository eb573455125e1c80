"""The laboratories' equations, on values that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from sltool.experiments.arms.formulas import FACTORS, friedewald, martin_hopkins, sampson


def test_friedewald() -> None:
    assert friedewald(np.array(200.0), np.array(50.0), np.array(150.0)) == 120


def test_sampson() -> None:
    # 210.970 - 51.493 - (17.523 + 10.514 - 1.398) - 9.44
    assert sampson(np.array(200.0), np.array(50.0), np.array(150.0)) == pytest.approx(
        123.4, abs=0.05
    )


@pytest.mark.parametrize(
    ("tg", "non_hdl", "factor"),
    [
        (10, 99, 3.5),
        (49, 100, 3.4),
        (49.9, 129.9, 3.4),
        (50, 130, 3.7),
        (100, 160, 4.7),
        (150, 150, 5.7),
        (399, 219, 6.5),
        (400, 99, 11.9),
        (5000, 220, 6.7),
    ],
)
def test_martin_hopkins_takes_the_strata_of_the_published_table(
    tg: float, non_hdl: float, factor: float
) -> None:
    found = martin_hopkins(np.array([non_hdl + 50.0]), np.array([50.0]), np.array([float(tg)]))
    assert found[0] == pytest.approx(non_hdl - tg / factor)


def test_the_table_has_180_cells_that_grow_with_triglycerides_and_shrink_with_cholesterol() -> None:
    assert FACTORS.shape == (30, 6)
    assert (np.diff(FACTORS, axis=1) <= 0).all()
    # The published medians step back once, by 0.1, in the last column.
    assert (np.diff(FACTORS, axis=0) >= -0.11).all()
