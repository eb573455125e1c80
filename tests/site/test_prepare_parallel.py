"""Decoding in worker processes: the same samples and order, whichever files cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

from sltool.progress import Silent
from sltool.registry import datasets
from sltool.site import prepare as stage
from sltool.site.fingerprint import fingerprint
from sltool.study.layout import StudyFolder
from sltool.study.schema import Study
from tests.conftest import Sltool
from tests.images import two_classes


def prepared(
    folder: Path, source: Path, workers: int
) -> tuple[dict[str, Any], stage.PreparationResult]:
    kind = datasets.get("covid-ct")
    dataset = kind(kind.Settings(size=8))
    study = Study.model_validate(
        {
            "id": "0" * 32,
            "dataset": {"name": "covid-ct"},
            "samples": dataset.samples().model_dump(),
            "model": {"name": "covid-cnn"},
        }
    )
    target = StudyFolder(folder)
    looked = fingerprint(source)
    done = stage.prepare(target, study, dataset, source, Silent(), workers, "state", looked)
    with h5py.File(target.prepared) as file:
        return {name: np.asarray(file[name]) for name in file}, done


def test_workers_give_what_one_process_gives(tmp_path: Path) -> None:
    source = two_classes(tmp_path / "ct", 800, ("non-COVID", "COVID"), side=10)
    paths = sorted((source / "non-COVID").iterdir())
    # A whole job's worth of files at the very start, which therefore yields no sample at all.
    assert len(paths) * 2 * stage.UNREADABLE_LIMIT >= stage.BATCH
    for path in paths[: stage.BATCH]:
        path.write_bytes(b"no picture")
    found = [prepared(tmp_path / str(workers), source, workers) for workers in (1, 2)]
    (alone, first), (together, second) = found
    assert first == second
    assert [refused.record for refused in first.refused] == [
        f"non-COVID/{path.name}" for path in paths[: stage.BATCH]
    ]
    assert alone["inputs"].shape == (1600 - stage.BATCH, 1, 8, 8)
    for name, column in alone.items():
        assert np.array_equal(column, together[name]), name
    with Image.open(paths[stage.BATCH]) as image:
        expected = np.asarray(image.resize((8, 8), Image.Resampling.BILINEAR))
    assert np.array_equal(alone["inputs"][0, 0], expected)


PLUGIN = """
import os
from pathlib import Path

import pytest

Path(os.environ["SEEN"]).open("a").write(f"{os.getpid()} ")

from sltool.datasets.covid_ct import CovidCT
from sltool.registry import datasets


@datasets.register("mine")
class Mine(CovidCT):
    "The same, as a plug-in that cannot be pickled."

    def __init__(self, settings):
        super().__init__(settings)
        self.locked = open(__file__)
"""


def test_no_plug_in_reaches_a_worker(sltool: Sltool, tmp_path: Path) -> None:
    assert stage.PARALLEL_FROM <= 520
    source = two_classes(tmp_path / "ct", 260, ("non-COVID", "COVID"), side=10)
    plugin = tmp_path / "mine.py"
    plugin.write_text(PLUGIN)
    options = ["--set", "dataset.size=64", "--workers", 2, "--plugins-dir", plugin, "--json"]
    seen = tmp_path / "seen"
    ran = sltool.run("prepare", "mine", "--source", source, *options, SEEN=str(seen)).ok()
    assert ran.json["samples"] == 520
    assert len(seen.read_text().split()) == 1
