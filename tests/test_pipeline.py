"""The five stages and `ship`, end to end, as a user types them."""

from __future__ import annotations

from tests.conftest import Sltool

PREPARE = ("prepare", "cholesterol", "--seed", 0, "--set", "training.epochs=40")


def test_main_job_on_the_bundled_patients(sltool: Sltool) -> None:
    prepared = sltool(*PREPARE, "--json").ok().json
    assert prepared["samples"] == 442
    assert "Friedewald" in prepared["notes"][0]
    sltool("partition").ok()
    for site in "ABC":
        encoded = sltool("client-encode", "--site", site, "--json").ok().json
        shipped = sltool("ship", "--site", site, "--json").ok().json
        assert encoded["site"] == shipped["site"] == site
        assert shipped["shards"] == encoded["shards"] == 3
        assert shipped["bytes"] == encoded["bytes"]
    trained = sltool("server-train", "--json").ok().json
    assert trained["sites"] == ["A", "B", "C"]
    assert (trained["accepted"], trained["rejected"]) == (9, 0)
    sltool("server-train", "--sites", "C", "--run", "C").ok()
    figures = [
        sltool("evaluate", "--run", run, "--metrics", "rmsle", "smape", "--json").ok().json
        for run in ("default", "C")
    ]
    assert set(figures[0]["metrics"]) == {"rmsle", "smape"}
    assert figures[0]["metrics"]["rmsle"] < figures[1]["metrics"]["rmsle"]
    assert "default" in sltool("compare").ok().out
