"""The FracAtlas plug-in on real X-rays."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sltool.errors import BadDataError
from sltool.registry import datasets, load_plugins
from tests.conftest import ROOT, Sltool

PLUGIN = ROOT / "plugins" / "fracatlas.py"


def some(source: Path, folder: Path, each: int = 30) -> Path:
    """A copy of the first `each` images of either class, with their table."""
    copied = set()
    for name in ("Fractured", "Non_fractured"):
        (folder / "images" / name).mkdir(parents=True)
        for path in sorted((source / "images" / name).iterdir())[:each]:
            shutil.copy(path, folder / "images" / name / path.name)
            copied.add(path.name)
    lines = (source / "dataset.csv").read_text().splitlines()
    lines = [lines[0], *(line for line in lines[1:] if line.split(",")[0] in copied)]
    (folder / "dataset.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_counts_are_those_of_the_table(data: Callable[[str], Path]) -> None:
    source = data("fracatlas")
    load_plugins([PLUGIN])
    kind = datasets.get("fracatlas")
    scan = kind(kind.Settings()).scan(source)
    assert np.bincount(scan.labels).tolist() == [400, 300]
    assert scan.refused == []
    with (source / "dataset.csv").open() as file:
        hips = sum(row["hip"] == "1" for row in csv.DictReader(file))
    assert len(kind(kind.Settings(parts=("hip",))).scan(source)) == hips > 0


def test_the_whole_pipeline(
    sltool: Sltool, data: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLTOOL_PLUGINS", str(PLUGIN))
    source = some(data("fracatlas"), tmp_path / "fracatlas")
    sets = ["dataset.size=64", "model.widths=[4, 8]", "training.epochs=2", "encoding.views=2"]
    options = [word for setting in sets for word in ("--set", setting)]
    done = sltool("prepare", "fracatlas", "--source", source, *options, "--json").ok().json
    assert done["classes"] == {"not fractured": 30, "fractured": 30}
    for stage in ("partition", "client-encode", "ship", "server-train"):
        sltool(stage).ok()
    assert sltool("evaluate", "--json").ok().json["samples"] == 6


def test_defects_are_named(data: Callable[[str], Path], tmp_path: Path) -> None:
    source = some(data("fracatlas"), tmp_path / "fracatlas", each=4)
    healthy = sorted((source / "images" / "Non_fractured").iterdir())
    broken = sorted((source / "images" / "Fractured").iterdir())
    shutil.copy(healthy[0], healthy[0].with_name("unknown.jpg"))
    healthy[1].unlink()
    shutil.move(broken[0], healthy[0].parent / broken[0].name)
    load_plugins([PLUGIN])
    kind = datasets.get("fracatlas")
    scan = kind(kind.Settings()).scan(source)
    assert len(scan) == 6
    assert {
        (Path(refused.record).name, refused.reason.split()[-1]) for refused in scan.refused
    } == {
        ("unknown.jpg", "it"),
        (healthy[1].name, "image"),
        (broken[0].name, "dataset.csv"),
    }


def test_another_folder_is_refused(tmp_path: Path) -> None:
    load_plugins([PLUGIN])
    kind = datasets.get("fracatlas")
    with pytest.raises(BadDataError, match="table cannot be read"):
        kind(kind.Settings()).scan(tmp_path)
    (tmp_path / "dataset.csv").write_text("image_id,hand\n")
    with pytest.raises(BadDataError, match="lacks a column"):
        kind(kind.Settings()).scan(tmp_path)
