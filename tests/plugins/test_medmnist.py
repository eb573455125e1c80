"""The MedMNIST plug-in on files in MedMNIST's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sltool.datasets.base import Scan
from sltool.errors import BadDataError
from sltool.registry import datasets, load_plugins
from tests.conftest import ROOT, Sltool

PLUGIN = ROOT / "plugins" / "medmnist.py"
COUNTS = {"train": 60, "val": 12, "test": 18}


def make(path: Path, classes: int, colour: bool, **changes: Any) -> Path:
    """A .npz as MedMNIST publishes them: six arrays; here a class is a grey level."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split, count in COUNTS.items():
        labels = np.arange(count) % classes
        shape = (count, 28, 28, 3) if colour else (count, 28, 28)
        level = (labels * 200 // classes).reshape(-1, *(1,) * (len(shape) - 1))
        arrays[f"{split}_images"] = (rng.integers(0, 50, shape) + level).astype(np.uint8)
        arrays[f"{split}_labels"] = labels[:, None].astype(np.uint8)
    arrays.update(changes)
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def scan_of(path: Path, **settings: Any) -> Scan:
    load_plugins([PLUGIN])
    kind = datasets.get("medmnist")
    scan: Scan = kind(kind.Settings(**{**kind.infer_settings(path, {})[0], **settings})).scan(path)
    return scan


@pytest.mark.parametrize(("classes", "colour"), [(2, False), (5, True)])
def test_the_whole_pipeline(
    sltool: Sltool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, classes: int, colour: bool
) -> None:
    monkeypatch.setenv("SLTOOL_PLUGINS", str(PLUGIN))
    source = make(tmp_path / "some.npz", classes, colour)
    sets = ["training.epochs=15", "model.name=covid-cnn", "model.filters=[4, 8]"]
    sets += ["training.batch_size=16", "encoding.views=1"]
    options = [word for setting in sets for word in ("--set", setting)]
    done = sltool("prepare", "medmnist", "--source", source, *options, "--json").ok().json
    assert done["samples"] == 90
    assert len(done["classes"]) == classes
    counts = sltool("partition", "--ratios", "1", "--json").ok().json["sites"]["A"]
    assert counts == {"train": 60, "validation": 12, "test": 18}
    for stage in ("client-encode", "ship", "server-train"):
        sltool(stage).ok()
    figures = sltool("evaluate", "--metrics", "accuracy", "--json").ok().json
    assert figures["samples"] == 18
    assert figures["metrics"]["accuracy"] > 0.9


def test_pictures_are_the_files_own(tmp_path: Path) -> None:
    path = make(tmp_path / "some.npz", 3, colour=True)
    scan = scan_of(path)
    with np.load(path) as file:
        expected = file["val_images"][2].transpose(2, 0, 1)
    assert callable(scan.inputs)
    assert np.array_equal(scan.inputs(COUNTS["train"] + 2), expected)
    assert scan.records[COUNTS["train"] + 2] == "val 2"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val_images": None}, "val_images"),
        ({"test_labels": np.array([None] * 18)}, "contains Python objects"),
        ({"train_labels": np.zeros((60, 14), np.uint8)}, "for 60 images"),
        ({"test_labels": np.full((18, 1), 9, np.uint8)}, "range from 9 to 9"),
        ({"val_images": np.zeros((12, 64, 64), np.uint8)}, r"uint8 of shape \(64, 64\)"),
        ({"val_images": np.zeros((12, 28, 28), np.float32)}, "float32"),
    ],
)
def test_another_layout_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = make(tmp_path / "some.npz", 2, colour=False, **changes)
    with pytest.raises(BadDataError, match=message):
        scan_of(path, classes=("a", "b"))


def test_a_file_that_is_not_npz_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.npz"
    path.write_text("not a zip file")
    with pytest.raises(BadDataError, match="not one of MedMNIST"):
        scan_of(path)
