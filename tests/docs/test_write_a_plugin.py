"""The plug-in guide's code, run as a user would: as a file and as an installed distribution."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sltool.models.base import build
from tests.conftest import ROOT, Sltool
from tests.models.studies import study_of

GUIDE = ROOT / "docs" / "how-to" / "write-a-plugin.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE.read_text(), re.DOTALL | re.MULTILINE)


def commands() -> list[list[str]]:
    """The guide's command lines, without `sltool`."""
    lines = "".join(blocks("sh")).splitlines()
    return [line.split()[1:] for line in lines if line.startswith("sltool ")]


def write_plugin(folder: Path) -> Path:
    path = folder / "skin.py"
    path.write_text("\n\n".join(blocks("python")))
    return path


def write_moles(folder: Path) -> None:
    """The layout that the guide describes: 60 photographs of 30 patients, and one without class."""
    (folder / "photos").mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = ["file,patient,diagnosis"]
    for photo in range(60):
        malignant = photo // 2 % 2
        pixels = rng.integers(0, 100, (80, 70, 3)) + 120 * malignant
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "photos" / f"{photo}.jpg")
        lines.append(f"{photo}.jpg,P{photo // 2},{('benign', 'malignant')[malignant]}")
    lines.append("60.jpg,P30,unclear")
    (folder / "diagnoses.csv").write_text("\n".join(lines) + "\n")


def run_the_guide(sltool: Sltool) -> None:
    write_moles(sltool.folder / "moles")
    outputs = {words[0]: sltool(*words).ok().out for words in commands()}
    assert list(outputs) == [
        "list",
        "prepare",
        "partition",
        "client-encode",
        "ship",
        "server-train",
        "evaluate",
    ]
    assert "refused 60.jpg: no known diagnosis" in outputs["prepare"]
    assert "prepared 60 samples, 30 benign, 30 malignant" in outputs["prepare"]
    figures = dict(line.split()[:2] for line in outputs["evaluate"].splitlines()[1:])
    assert float(figures["accuracy"]) > 0.8
    assert float(figures["missed"]) <= 20
    assert "# Residual blocks." in (sltool.folder / "study.yaml").read_text()


@pytest.mark.slow
def test_as_a_file(sltool: Sltool, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_plugin(sltool.folder)
    monkeypatch.setenv("SLTOOL_PLUGINS", "skin.py")
    run_the_guide(sltool)
    monkeypatch.delenv("SLTOOL_PLUGINS")
    found = sltool.run("list", "models", "--plugins-dir", path, "--json").ok().json["models"]
    assert {entry["origin"] for entry in found if entry["name"] == "residual"} == {str(path)}


def install(folder: Path, name: str, entry_points: str) -> None:
    """What `pip install` leaves of a distribution beside its modules."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)


def entry_points() -> str:
    """The guide's pyproject.toml lines, as an installer writes them."""
    text = "".join(blocks("toml")).replace('"', "")
    return text.replace("project.entry-points.", "")


@pytest.mark.slow
def test_as_an_installed_distribution(
    sltool: Sltool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    write_plugin(packages)
    install(packages, "skin-for-sltool", entry_points())
    path = os.pathsep.join([str(ROOT), str(packages)])
    found = sltool.run("list", "datasets", "--json", PYTHONPATH=path).ok().json["datasets"]
    assert {entry["origin"] for entry in found if entry["name"] == "skin"} == {
        "skin-for-sltool 1.0"
    }
    monkeypatch.delitem(sys.modules, "skin", raising=False)
    monkeypatch.syspath_prepend(str(packages))
    run_the_guide(sltool)
    monkeypatch.delitem(sys.modules, "skin", raising=False)


@pytest.mark.parametrize("cut", range(4))
def test_any_cut_of_the_guides_model_fits(tmp_path: Path, cut: int) -> None:
    from sltool.registry import load_plugins

    load_plugins([write_plugin(tmp_path)])
    x = torch.randn(2, 3, 32, 32)
    halves, whole = (build(study_of("residual", (3, 32, 32), cut=n), seed=1) for n in (cut, 0))
    with torch.no_grad():
        assert torch.equal(halves.server_network(halves.privacy_layer(x)), whole.server_network(x))


def test_the_guide_is_short() -> None:
    code = [line for line in "".join(blocks("python")).splitlines() if line.strip()]
    assert len(code) < 90
