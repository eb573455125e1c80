"""`sltool study new`: a study by a coordinator who has no data."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.conftest import Sltool
from tests.images import two_classes


def test_a_coordinator_without_data_makes_a_study_that_a_site_uses(
    sltool: Sltool, tmp_path: Path
) -> None:
    made = sltool("study", "new", "covid-ct", "--set", "dataset.size=32").ok()
    assert "sltool study kit" in made.out
    assert {path.name for path in sltool.folder.iterdir()} == {
        "study.yaml",
        "privacy-layer.safetensors",
    }
    site = tmp_path / "hospital"
    shutil.copytree(sltool.folder, site)
    source = two_classes(tmp_path / "slices", 20, ("non-COVID", "COVID"))
    prepared = sltool("prepare", "--source", source, "--study", site, "--json").ok()
    assert prepared.json["samples"] == 40
    layers = [
        (folder / "privacy-layer.safetensors").read_bytes() for folder in (sltool.folder, site)
    ]
    assert layers[0] == layers[1]


def test_an_unknown_dataset_writes_nothing(sltool: Sltool) -> None:
    ran = sltool("study", "new", "covdi-ct")
    assert ran.code == 2
    assert "did you mean 'covid-ct'" in ran.err
    assert list(sltool.folder.iterdir()) == []


def test_a_seed_is_noted_as_public(sltool: Sltool) -> None:
    assert "public" in sltool("study", "new", "cholesterol", "--seed", 0).ok().err
