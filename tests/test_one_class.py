"""A hospital may lack a class, or have cases of one class alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import Sltool
from tests.test_bad_input import make_images

SMALL = ["--set", "training.epochs=2"]


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Path]:
    """Hospital A has both classes; B has only healthy people."""
    make_images(tmp_path / "a" / "COVID", 40)
    make_images(tmp_path / "a" / "non-COVID", 40, seed=1)
    make_images(tmp_path / "b" / "non-COVID", 60, seed=2)
    (tmp_path / "b" / "COVID").mkdir()
    return {"A": tmp_path / "a", "B": tmp_path / "b"}


def at_site(server: Sltool, name: str, source: Path, capfd: pytest.CaptureFixture[str]) -> str:
    """Run all stages of hospital `name` in its own folder; returns stderr."""
    folder = server.folder.parent / name
    folder.mkdir()
    site = Sltool(folder, capfd)
    if (server.folder / "study.yaml").exists():
        for file in ("study.yaml", "privacy-layer.safetensors"):
            shutil.copy(server.folder / file, folder / file)
        printed = site("prepare", "--source", source).ok().err
    else:
        printed = site("prepare", "covid-ct", "--source", source, *SMALL).ok().err
    printed += site("partition", "--site", name).ok().err
    site("client-encode", "--site", name).ok()
    site("ship", "--site", name, "--to", server.folder / "server" / "inbox").ok()
    for file in ("study.yaml", "privacy-layer.safetensors"):
        shutil.copy(folder / file, server.folder / file)
    return printed


@pytest.mark.slow
def test_two_hospitals_of_which_one_has_one_class_alone(
    sltool: Sltool, sources: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    assert "note: no sample" not in at_site(sltool, "A", sources["A"], capfd)
    printed = at_site(sltool, "B", sources["B"], capfd)
    assert "note: no sample of the class 'COVID'" in printed
    assert "note: site B has no training sample of the class 'COVID'" in printed
    assert sltool("queue", "take", "--json").ok().json["held"] == []
    sltool("server-train").ok()
    ran = sltool("evaluate", "--by", "site", "--json").ok()
    assert ran.json["metrics"]["auroc"] is not None
    assert ran.json["by_site"]["B"]["metrics"]["auroc"] is None
    assert ran.json["by_site"]["B"]["metrics"]["accuracy"] is not None
    ran = sltool("evaluate", "--by", "site").ok()
    assert "note: site B: not defined for these 6 samples, where all are of the class " in ran.err
    assert "auroc" in ran.err
    assert "Warning" not in ran.err
    assert "nan" not in ran.out.lower()


@pytest.mark.slow
def test_a_study_that_has_one_class_so_far(
    sltool: Sltool, sources: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    at_site(sltool, "B", sources["B"], capfd)
    ran = sltool("server-train").ok()
    assert "note: no training sample of the class 'COVID' has arrived" in ran.err
    ran = sltool("evaluate", "--json").ok()
    assert ran.json["metrics"]["auroc"] is None
    ran = sltool("evaluate").ok()
    printed = "note: not defined for these 6 samples, where all are of the class 'non-COVID': "
    assert printed in ran.err
    sltool("server-train", "--run", "two").ok()
    sltool("evaluate", "--run", "two").ok()
    sltool("compare", "default", "two").ok()
    sltool("report", "default").ok()
    assert json.loads((sltool.folder / "server" / "runs" / "two" / "metrics.json").read_text())


def test_a_simulated_site_of_one_class(sltool: Sltool, tmp_path: Path) -> None:
    make_images(tmp_path / "ct" / "COVID", 3)
    make_images(tmp_path / "ct" / "non-COVID", 57, seed=1)
    sltool("prepare", "covid-ct", "--source", tmp_path / "ct", *SMALL).ok()
    ran = sltool("partition", "--ratios", "7:2:1").ok()
    assert "note: site C has no training sample of the class 'COVID'" in ran.err
    sltool("client-encode").ok()
    sltool("ship").ok()
    sltool("server-train").ok()
    sltool("evaluate", "--by", "site").ok()
    sltool("server-train", "--run", "single", "--sites", "C").ok()


def test_a_missing_class_folder_may_be_a_slip_and_says_what_to_do(
    sltool: Sltool, sources: dict[str, Path]
) -> None:
    (sources["B"] / "COVID").rmdir()
    ran = sltool("prepare", "covid-ct", "--source", sources["B"])
    assert ran.code == 3
    assert "an empty folder" in ran.err
