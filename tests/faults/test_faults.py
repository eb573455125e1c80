"""Kills and full disks at every write, fsync, rename and removal; then the stage runs again.

The suite takes a thinned sample. `make faults` strikes every call of every stage in turn with
SIGKILL, ENOSPC and EIO, and adds 200 kills at random instants.
"""

from __future__ import annotations

import csv
import errno
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sltool.server.intake.queue import Queue
from sltool.study.layout import StudyFolder
from sltool.study.study_file import load_study
from tests.faults.conftest import ALL, Zygote

STAGES = {
    "client-encode": ["client-encode"],
    "ship": ["ship"],
    "queue": ["queue", "take"],
    "server-train": ["server-train", "--device", "cpu"],
}
ACTIONS = {"SIGKILL": 0, "ENOSPC": errno.ENOSPC, "EIO": errno.EIO}
SAMPLE, RANDOM_KILLS = 2, 200 if ALL else 4


@pytest.fixture(scope="module")
def states(fork_server: Zygote, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The study's folder before each stage, and under 'done' after the last."""
    root = tmp_path_factory.mktemp("states")
    study = root / "study"
    study.mkdir()
    fork_server.ok(study, ["prepare", "cholesterol", "--seed", "0", "--set", "training.epochs=3"])
    fork_server.ok(study, ["partition", "--ratios", "7:3"])
    found = {}
    for name, arguments in STAGES.items():
        found[name] = root / f"before-{name}"
        shutil.copytree(study, found[name])
        fork_server.ok(study, arguments)
    found["done"] = study
    return found


def finish(fork_server: Zygote, folder: Path, stage: str) -> None:
    """Run the stage again, and those that follow."""
    names = list(STAGES)
    for name in names[names.index(stage) :]:
        fork_server.ok(folder, STAGES[name])


def same(first: Any, other: Any) -> bool:
    """Whether two values are equal bit by bit, in any nesting."""
    if isinstance(first, torch.Tensor):
        return first.dtype == other.dtype and torch.equal(first, other)
    if isinstance(first, dict):
        return first.keys() == other.keys() and all(same(first[key], other[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(other) and all(map(same, first, other))
    return bool(first == other)


def training_state(folder: Path) -> dict[str, Any]:
    """The checkpoint without the durations of its epochs."""
    path = StudyFolder(folder).run("default").checkpoint
    checkpoint: dict[str, Any] = torch.load(path, weights_only=True)
    for row in checkpoint["history"]:
        row.pop("seconds")
    return checkpoint


def rows(folder: Path) -> dict[str, list[np.ndarray[Any, Any]]]:
    study = StudyFolder(folder)
    store = Queue(study, load_study(study)).store
    found = {}
    for split in ("train", "validation", "test"):
        samples = store.samples(split)
        features = samples.features[samples.rows].numpy()
        found[split] = [samples.pseudonyms, samples.groups, samples.labels.numpy(), features]
    return found


def history(folder: Path) -> list[dict[str, str]]:
    """The rows of `history.csv` without the durations."""
    with StudyFolder(folder).run("default").history.open() as file:
        return [{**row, "seconds": ""} for row in csv.DictReader(file)]


def assert_as_unbroken(folder: Path, done: Path) -> None:
    """No row lost, none twice, the same files, and the checkpoint the same bit by bit."""
    for name in ("outbox", "server/accepted"):
        files = {path.relative_to(done): path for path in (done / name).rglob("*.h5")}
        assert files
        for relative, path in files.items():
            assert (folder / relative).read_bytes() == path.read_bytes()
    for split, columns in rows(done).items():
        for written, other in zip(rows(folder)[split], columns, strict=True):
            assert np.array_equal(written, other), split
    assert same(training_state(folder), training_state(done))
    assert history(folder) == history(done)
    model = "server/runs/default/model.safetensors"
    assert (folder / model).read_bytes() == (done / model).read_bytes()
    left = [path for path in folder.rglob("*.part") if path.is_file()]
    left += (folder / "server" / "inbox").glob("*")
    left += (folder / "server" / "rejected").glob("*")
    assert not left


def assert_whole(folder: Path, before: Path, done: Path) -> None:
    """Every file with a final name is as before the stage or as after the last one."""
    for path in folder.rglob("*.h5"):
        relative = path.relative_to(folder)
        if relative.parts[:2] == ("server", "store"):
            continue
        shipped = Path("outbox", path.name[0], path.name)
        whole = [before / relative, done / relative, done / shipped]
        assert path.read_bytes() in [file.read_bytes() for file in whole if file.is_file()]
    for path in folder.rglob("*.json"):
        json.loads(path.read_text())
    checkpoint = StudyFolder(folder).run("default").checkpoint
    if checkpoint.is_file():
        torch.load(checkpoint, weights_only=True)


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("stage", STAGES)
def test_struck_at_a_call(
    fork_server: Zygote, states: dict[str, Path], tmp_path: Path, stage: str, action: str
) -> None:
    count = fork_server.ok(copy(states[stage], tmp_path / "count"), STAGES[stage])
    assert count > 10, "the shim counts"
    chosen = random.Random(f"{stage} {action}")
    calls = range(count) if ALL else sorted(chosen.sample(range(count), SAMPLE))
    for call in calls:
        folder = copy(states[stage], tmp_path / str(call))
        code, _, output = fork_server.run(folder, STAGES[stage], call, ACTIONS[action])
        where = f"{stage}, call {call} of {count}: {code} {output}"
        assert code == (-9 if action == "SIGKILL" else 3), where
        assert "Traceback" not in output, where
        assert_whole(folder, states[stage], states["done"])
        finish(fork_server, folder, stage)
        assert_as_unbroken(folder, states["done"])
        shutil.rmtree(folder)


@pytest.mark.parametrize("seed", range(RANDOM_KILLS))
def test_killed_at_a_random_instant(
    fork_server: Zygote, states: dict[str, Path], tmp_path: Path, seed: int
) -> None:
    chosen = random.Random(seed)
    stage = chosen.choice(list(STAGES))
    folder = copy(states[stage], tmp_path / "study")
    fork_server.run(folder, STAGES[stage], seconds=chosen.uniform(0, 0.4))
    assert_whole(folder, states[stage], states["done"])
    finish(fork_server, folder, stage)
    assert_as_unbroken(folder, states["done"])


def copy(state: Path, folder: Path) -> Path:
    shutil.copytree(state, folder)
    return folder
