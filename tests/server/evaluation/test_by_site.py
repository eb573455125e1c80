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


def test_intervals_and_the_worst_served_site(trained: Sltool) -> None:
    ran = trained("evaluate", "--metrics", "mse", "mae", "--by", "site", "--json").ok()
    by_site, worst = ran.json["by_site"], ran.json["worst_served"]["mae"]
    known = {
        site for site, found in by_site.items() if found["intervals"]["mae"]["low"] is not None
    }
    # Site C has four patients.
    assert known == {"A", "B"}
    assert by_site["C"]["intervals"]["mae"]["reason"] == "4 patients: an interval needs 5"
    assert "site C, mse mae: 4 patients: an interval needs 5" in ran.err
    for site in known:
        interval = by_site[site]["intervals"]["mae"]
        assert interval["low"] < by_site[site]["metrics"]["mae"] < interval["high"]
    assert worst["site"] == max(known, key=lambda site: by_site[site]["metrics"]["mae"])
    assert worst["value"] == by_site[worst["site"]]["metrics"]["mae"]
    assert worst["apart"] is not worst["low"] <= ran.json["metrics"]["mae"] <= worst["high"]
    assert (
        f"worst served by mae: site {worst['site']}"
        in trained(*("evaluate", "--metrics", "mae", "--by", "site")).ok().out
    )


def test_the_worst_of_sites_that_differ_is_found_in_a_notebook_too(trained: Sltool) -> None:
    import sltool
    from sltool.progress import Silent

    run = sltool.Study.open(trained.folder, progress=Silent()).run()
    table = run.evaluate(["mae"], by="site")
    assert list(table.index) == ["all", "A", "B", "C"]
    assert list(table.columns) == ["samples", "mae", "mae low", "mae high"]
    assert table.loc["C"].isna().tolist() == [False, False, True, True]
    assert table.attrs["worst_served"]["mae"] == table.loc[["A", "B"], "mae"].idxmax()
    assert "needs 5" in table.attrs["reasons"]["C"]
    with pytest.raises(sltool.errors.UsageError, match="no figures by 'hospital'"):
        run.evaluate(by="hospital")


def test_a_site_of_one_class_has_no_auroc_and_is_said_to(sltool: Sltool) -> None:
    source = sltool.folder.parent / "people.csv"
    rows = [f"{20 + n % 60},{'AB'[n % 2]},{('no', 'yes')[n % 4 == 1]}\n" for n in range(200)]
    source.write_text("age,site,label\n" + "".join(rows))
    ready = ("dataset.columns.age.range=[20, 90]", "training.epochs=1")
    sltool("prepare", "table", "--source", source, "--set", *ready).ok()
    assert (
        "site A has no training sample of the class 'yes'"
        in sltool("partition", "--by", "site").ok().err
    )
    for stage in ("client-encode", "ship", "server-train"):
        sltool(stage).ok()
    ran = sltool("evaluate", "--metrics", "auroc", "accuracy", "--by", "site", "--json").ok()
    reason = ran.json["by_site"]["A"]["intervals"]["auroc"]["reason"]
    assert ran.json["by_site"]["A"]["metrics"]["auroc"] is None
    assert "where all are of the class 'no'" in reason
    assert f"site A: {reason}" in ran.err
    assert ran.json["worst_served"]["auroc"]["site"] is None
    assert "1 of 2 sites" in ran.json["worst_served"]["auroc"]["reason"]
    assert ran.json["worst_served"]["accuracy"]["site"] in ("A", "B")
