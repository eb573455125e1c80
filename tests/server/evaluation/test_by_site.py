"""`evaluate --by site`: the metrics of each hospital."""

from __future__ import annotations

import pytest

from tests.conftest import Sltool


def test_figures_of_each_site_are_beside_those_of_all(trained: Sltool) -> None:
    ran = trained("evaluate", "--metrics", "mse", "--by", "site", "--json").ok().json
    by_site = ran["by_site"]
    assert set(by_site) == {"A", "B", "C"}
    assert sum(figures["samples"] for figures in by_site.values()) == ran["samples"]
    mean = (
        sum(figures["samples"] * figures["metrics"]["mse"] for figures in by_site.values())
        / ran["samples"]
    )
    assert mean == pytest.approx(ran["metrics"]["mse"])
    for site, figures in by_site.items():
        alone = trained("evaluate", "--metrics", "mse", "--sites", site, "--json").ok().json
        assert alone["metrics"] == pytest.approx(figures["metrics"])
    assert "C (4 samples)" in trained("evaluate", "--by", "site").ok().out
