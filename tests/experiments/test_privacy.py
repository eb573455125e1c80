"""`sltool reproduce privacy`: accuracy against what an attacker gets, by privacy layer."""

from __future__ import annotations

import html
import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from sltool.accounting import Release, epsilon
from sltool.api import Study
from sltool.datasets.cholesterol import Cholesterol
from sltool.experiments.cases import PRIVACY_CASES
from sltool.models.privacy_layer_file import fitted_on
from sltool.progress import Silent
from sltool.registry import load_plugins
from sltool.site.audit import attacker
from sltool.site.fit_layer import FitOptions
from tests.conftest import ROOT, Sltool
from tests.images import two_classes

pytest.importorskip("matplotlib", reason="pictures need sltool[report]")

FEW = ("--set", "training.epochs=2", "--seeds", 1, "--out", "out")
ROWS = ("reproduce", "privacy", "--dataset", "cholesterol", *FEW)


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    small = attacker.Budget("quick", 200, 40, steps=8, descent=8, optimised=4, rows=1000)
    monkeypatch.setitem(attacker.BUDGETS, "quick", small)


def audits(folder: Path) -> dict[str, Path]:
    return {path.parts[-3]: path for path in (folder / "out" / "cells").glob("*/*/audit.json")}


@pytest.mark.slow
def test_layers_are_compared_by_accuracy_and_leak(
    sltool: Sltool, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = sltool(*ROWS, "--sweep", "layer=random,dp-1", "--json").ok()
    out = sltool.folder / "out"
    by_layer = {arm["sweep"]["layer"]: arm for arm in done.json["arms"]}
    assert list(by_layer) == ["random", "dp-1"]
    leaks = {name: arm["audits"][0]["figures"]["leak"] for name, arm in by_layer.items()}
    assert leaks["random"] > 0.9 > 0.2 > leaks["dp-1"]
    frame = pd.read_csv(out / "results.csv").set_index(["layer", "metric"])
    assert frame.loc[("random", "leak"), "mean"] == pytest.approx(leaks["random"])
    assert (out / "figures" / "leaks.png").stat().st_size > 0
    page = (out / "report.html").read_text()
    assert "Privacy layers" in page
    assert "The line joins the front" in page
    facts = json.loads((out / "cells" / "layer=dp-1" / "seed-0" / "cell.json").read_text())
    encoding = facts["encoding"]
    assert epsilon([Release(encoding["clip"], encoding["noise"])]) == pytest.approx(1, rel=1e-4)
    # Goes on where it stopped: one audit is missing, one layer is new.
    found = audits(sltool.folder)
    written = found["layer=dp-1"].stat().st_mtime_ns
    found["layer=random"].unlink()
    # Drawing the figures once more would take most of the time.
    monkeypatch.setattr("sltool.experiments.report.draw_all", lambda results, folder: [])
    sltool(*ROWS, "--sweep", "layer=random,dp-1,noisy-2").ok()
    again = audits(sltool.folder)
    assert set(again) == {"layer=random", "layer=dp-1", "layer=noisy-2"}
    assert again["layer=dp-1"].stat().st_mtime_ns == written


def test_an_unknown_layer_is_named(sltool: Sltool) -> None:
    ran = sltool(*ROWS, "--sweep", "layer=dp-9")
    assert ran.code == 2
    assert "dp-8" in ran.err
    assert sltool("reproduce", "privacy", "--dataset", "mura").code == 2
    ran = sltool("reproduce", "cholesterol", *FEW, "--sweep", "layer=random")
    assert ran.code == 2
    assert "reproduce privacy" in ran.err


@pytest.mark.parametrize("dataset", PRIVACY_CASES)
def test_every_layer_makes_a_study(tmp_path: Path, dataset: str) -> None:
    load_plugins([ROOT / "plugins" / "fracatlas.py"] if dataset == "fracatlas" else [])
    case = PRIVACY_CASES[dataset]
    kinds = {name.partition("-")[0] for name in case.layers}
    assert {"random", "noisy", "quantised", "dp", "learned"} == kinds
    for name, layer in case.layers.items():
        settings = dict(key.split("=", 1) for key in layer.settings())
        study = Study.create(
            tmp_path / name,
            dataset,
            settings={key: yaml.safe_load(value) for key, value in settings.items()},
            progress=Silent(),
        )
        encoding = study.settings.encoding
        if layer.epsilon is None:
            continue
        release = Release(encoding.clip, encoding.noise, encoding.views)
        assert epsilon([release]) == pytest.approx(layer.epsilon, rel=1e-4), name


@pytest.mark.slow
def test_a_learned_layer_is_fitted_at_the_largest_site_and_named_on_the_front(
    sltool: Sltool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sltool.experiments.trial.FitOptions", lambda: FitOptions(epochs=1))
    monkeypatch.setattr("sltool.experiments.report.draw_all", lambda results, folder: [])
    typed = (*ROWS, "--ratios", "1:3", "--keep", "--sweep", "layer=random,learned-private")
    sltool(*typed).ok()
    cell = sltool.folder / "out" / "cells" / "layer=learned-private" / "seed-0"
    layer = cell / "study" / "privacy-layer.safetensors"
    fitted = fitted_on(layer)
    assert fitted is not None
    assert fitted["site"] == "B"
    facts = json.loads((cell / "cell.json").read_text())
    recipe = Cholesterol.recipes["private"]
    assert facts["model"]["code"]["channels"] == recipe["model"]["code"]["channels"]
    assert facts["encoding"]["noise"] == recipe["encoding"]["noise"]
    assert json.loads((cell / "audit.json").read_text())["figures"]["exact_recovery"] == 0
    page = " ".join((sltool.folder / "out" / "report.html").read_text().split())
    assert "on the front: learned-private" in page
    assert html.escape("model.code=", quote=False) in page
    # An interrupted cell goes on with the layer that it has.
    written = layer.read_bytes()
    (cell / "cell.json").unlink()
    (cell / "arms" / "multi" / "arm.json").unlink()
    sltool(*typed).ok()
    assert layer.read_bytes() == written


@pytest.mark.slow
def test_labels_as_responses_are_scored_against_the_truth(sltool: Sltool) -> None:
    two_classes(sltool.folder / "slices", 60, ("non-COVID", "COVID"))
    typed = ("reproduce", "covid-ct", "--source", "slices", "--arms", "multi", "pooled")
    keys = ("dataset.size=32", "training.epochs=1", "encoding.views=1", "encoding.label_epsilon=1")
    sltool(*typed, *FEW[2:], "--set", *keys).ok()
    arms = sltool.folder / "out" / "cells" / "base" / "seed-0" / "arms"
    multi, pooled = (
        pd.read_csv(arms / name / "predictions.csv").sort_values("pseudonym", ignore_index=True)
        for name in ("multi", "pooled")
    )
    assert multi[["pseudonym", "y_true"]].equals(pooled[["pseudonym", "y_true"]])
