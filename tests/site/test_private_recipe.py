"""The recipe `private`: a short code that has to be fitted, and limits that `ship` holds to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from sltool.coordinator.recipes import find_recipe
from sltool.registry import datasets, load_plugins
from sltool.site.audit import attacker
from tests.conftest import DATA, ROOT, Sltool
from tests.images import two_classes

CT = "covid-ct-sao-paulo"
QUICK_TO_FIT = ("--epochs", 2, "--seed", 0)


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    small = attacker.Budget("quick", 200, 40, steps=16, descent=16, optimised=4, rows=5_000)
    monkeypatch.setitem(attacker.BUDGETS, "quick", small)


def study_file(sltool: Sltool) -> dict[str, Any]:
    return dict(yaml.safe_load((sltool.folder / "study.yaml").read_text(encoding="utf-8")))


def some_slices(folder: Path, each: int) -> Path:
    """Some of the real slices, in the source's layout."""
    if not (DATA / CT).exists():
        pytest.skip(f"no real data at {DATA / CT}: set SLTOOL_TEST_DATA")
    for name in ("COVID", "non-COVID"):
        (folder / name).mkdir(parents=True)
        for path in sorted((DATA / CT / name).glob("*.png"))[::8][:each]:
            (folder / name / path.name).symlink_to(path.resolve())
    return folder


def test_images_from_the_recipe_to_the_server(sltool: Sltool, tmp_path: Path) -> None:
    source = some_slices(tmp_path / "slices", 40)
    # Looser than the recipe's: few patients are easily told apart.
    typed = ("dataset.size=32", "training.epochs=2", "privacy.max_linkage=0.9")
    made = sltool("prepare", "covid-ct", "--recipe", "private", "--source", source, "--set", *typed)
    assert "has to be fitted before any site encodes" in made.ok().err
    before = study_file(sltool)
    assert before["recipe"]["name"] == "private"
    assert before["privacy"]["max_leak"] == 0.25
    assert "sltool fit-privacy-layer --site NAME" in " ".join(
        (sltool.folder / "study.yaml").read_text().replace("#", "").split()
    )
    sltool("partition", "--site", "B").ok()
    ran = sltool("client-encode")
    assert ran.code == 2
    assert "was not fitted" in ran.err
    assert "fit-privacy-layer --site NAME" in ran.err
    assert "sltool fit-privacy-layer" in sltool("status").ok().out
    sltool("fit-privacy-layer", "--site", "B", *QUICK_TO_FIT).ok()
    after = study_file(sltool)
    assert after["model"]["code"] == before["model"]["code"]
    assert after["encoding"] == before["encoding"]
    sltool("client-encode").ok()
    ran = sltool("ship")
    assert ran.code == 3
    assert "have not been audited" in ran.err
    sltool("audit").ok()
    sltool("ship").ok()
    sltool("server-train").ok()
    assert 0 <= sltool("evaluate", "--json").ok().json["metrics"]["accuracy"] <= 1


def test_shards_above_the_recipes_limits_do_not_ship(sltool: Sltool, tmp_path: Path) -> None:
    """A code with many values and without noise identifies patients."""
    source = some_slices(tmp_path / "slices", 40)
    wide = ("model.code={channels: 32, size: 8}", "encoding.bits=8", "encoding.noise=0")
    typed = ("dataset.size=32", *wide)
    sltool("prepare", "covid-ct", "--recipe", "private", "--source", source, "--set", *typed).ok()
    sltool("partition", "--site", "B").ok()
    fitted = sltool("fit-privacy-layer", "--site", "B", "--epochs", 1, "--json")
    assert fitted.ok().json["adversary_leak"] is None
    sltool("client-encode").ok()
    sltool("audit").ok()
    ran = sltool("ship")
    assert ran.code == 3
    assert "more than privacy.max_linkage: 0.1" in ran.err


def test_a_table_from_the_recipe_to_the_server(sltool: Sltool) -> None:
    # Looser than the recipe's: few patients are easily told apart.
    typed = ("training.epochs=2", "privacy.max_linkage=0.5")
    sltool("prepare", "cholesterol", "--recipe", "private", "--set", *typed).ok()
    sltool("partition", "--ratios", "3:1").ok()
    sltool("fit-privacy-layer", "--site", "A", *QUICK_TO_FIT).ok()
    study = study_file(sltool)
    assert study["model"]["code"]["channels"] < study["samples"]["shape"][0]
    sltool("client-encode").ok()
    for site in ("A", "B"):
        found = sltool("audit", "--site", site, "--json").ok().json
        assert found["exact_recovery"] == 0
        assert found["linkage_top1"] <= study["privacy"]["max_linkage"]
    sltool("ship").ok()
    sltool("server-train").ok()


def test_another_model_keeps_the_code_and_a_kit_says_that_it_is_not_fitted(sltool: Sltool) -> None:
    new = ("study", "new", "covid-ct", "--recipe", "private", "--set", "model.name=resnet")
    sltool(*new).ok()
    assert "has not been fitted" in sltool("study", "kit").ok().err
    study = study_file(sltool)
    assert study["model"]["name"] == "resnet"
    assert study["model"]["code"]["channels"] > 0
    assert study["model"]["channels"] == 16  # of resnet itself


def test_every_dataset_has_the_recipe_with_limits(tmp_path: Path) -> None:
    plugins = sorted((ROOT / "plugins").glob("*.py"))
    load_plugins(plugins)
    for name in ("covid-ct", "mura", "cifar10", "images", "cholesterol", "table", "fracatlas"):
        sections = find_recipe(datasets.get(name), name, "private")
        best = find_recipe(datasets.get(name), name, "best")
        assert sections["privacy"]["max_exact_recovery"] == 0, name
        assert sections["model"]["name"] == best["model"]["name"]
        assert "code" not in best["model"], name
        assert json.dumps(sections["encoding"])


def test_responses_beside_a_code_are_not_said_to_hide_the_label(
    sltool: Sltool, tmp_path: Path
) -> None:
    source = two_classes(tmp_path / "made", 20, ("COVID", "non-COVID"), side=32)
    typed = ("dataset.size=32", "encoding.label_epsilon=1")
    sltool("prepare", "covid-ct", "--recipe", "private", "--source", source, "--set", *typed).ok()
    ran = sltool("fit-privacy-layer", "--source", source, "--epochs", 1).ok()
    assert "encoding.label_epsilon hides no label" in ran.err
