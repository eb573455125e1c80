"""A site that signs may be hostile: any such payload is refused with bounded time and memory."""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from sltool.errors import ShardRefusedError, SltoolError
from sltool.shard.reader import open_shard
from sltool.study.layout import StudyFolder
from tests.conftest import Sltool
from tests.shard.forge import Forge
from tests.shard.hostile import PAYLOADS

MEMORY = 2 * 2**30
SECONDS = 30


def read_all(forge: Forge, path: Path) -> int:
    with open_shard(path, forge.study, forge.content) as reader:
        rows = reader.rows()
        assert sum(map(len, reader.features(64))) == len(rows)
        return len(rows)


def read_in_child(forge: Forge, path: Path, answer: Any) -> None:
    """Read a shard, and report the outcome, the files opened, the memory and the time."""
    opened: list[str] = []
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
    h5py.h5f.open = h5py.h5f.open_file_image = None  # whoever calls it fails with a TypeError
    started = time.monotonic()
    try:
        outcome_text = f"accepted {read_all(forge, path)}"
    except SltoolError as error:
        outcome_text = type(error).__name__
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    answer.send((outcome_text, opened, peak, time.monotonic() - started))


def outcome(forge: Forge, path: Path) -> str:
    """The reader's outcome for a shard, after checking its resources against the bounds."""
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe()
    child = fork.Process(target=read_in_child, args=(forge, path, there))
    child.start()
    assert here.poll(SECONDS), "no answer in time"
    outcome_text, opened, peak, seconds = here.recv()
    child.join()
    assert {name for name in opened if not name.startswith("/proc")} == {str(path)}
    assert peak < MEMORY
    assert seconds < SECONDS
    return str(outcome_text)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("name", PAYLOADS)
def test_hostile_payload_is_refused_in_bounds(forge: Forge, tmp_path: Path, name: str) -> None:
    good = forge.shard(tmp_path / "good.h5")
    assert outcome(forge, good) == "accepted 20", "the positive control"
    # HDF5 makes no virtual dataset in the older format.
    libver = ("v108", "latest" if name == "virtual dataset" else "v108")
    bad = forge.shard(tmp_path / "bad.h5", PAYLOADS[name], libver=libver)
    assert outcome(forge, bad) == "ShardRefusedError"


@pytest.mark.parametrize("libver", ["earliest", "v110", "latest"])
def test_other_file_formats_of_hdf5_are_refused(forge: Forge, tmp_path: Path, libver: str) -> None:
    version = (libver, "v110" if libver == "v110" else "latest")
    path = forge.shard(tmp_path / "other.h5", libver=version)
    with pytest.raises(ShardRefusedError):
        read_all(forge, path)


@pytest.mark.parametrize(
    "claims",
    [
        {"samples": 2**39},
        {"samples": 2**20 + 1},
        {"samples": 0},
        {"samples": 21},
        {"previous": None},
    ],
)
def test_manifest_with_impossible_claims(
    forge: Forge, tmp_path: Path, claims: dict[str, Any]
) -> None:
    with pytest.raises(ShardRefusedError):
        read_all(forge, forge.shard(tmp_path / "bad.h5", claims=claims))


def spoil(name: str, row: int, value: Any) -> dict[str, Any]:
    return {"name": name, "row": row, "value": value}


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        (spoil("features", 3, np.nan), "not finite"),
        (spoil("features", 19, np.inf), "not finite"),
        (spoil("labels", 0, np.nan), "labels out of range"),
        (spoil("pseudonyms", 1, b"MRN-12345"), "not 32 hex digits"),
        (spoil("pseudonyms", 1, b"A" * 32), "not 32 hex digits"),
        (spoil("pseudonyms", 1, b""), "not 32 hex digits"),
        (spoil("groups", 1, b"patient 7"), "not pseudonyms"),
        (spoil("groups", 1, b"0" * 32 + b"/"), "not pseudonyms"),
        (spoil("groups", 1, b"0" * 32 + b"x" + b"0" * 32), "not pseudonyms"),
    ],
)
def test_bad_data_is_refused(
    forge: Forge, tmp_path: Path, spoilt: dict[str, Any], message: str
) -> None:
    columns = forge.columns()
    columns["groups"][0] = b"0" * 32 + b"/" + b"1" * 32
    assert read_all(forge, forge.shard(tmp_path / "good.h5", columns=columns)) == 20
    columns[spoilt["name"]][spoilt["row"]] = spoilt["value"]
    with pytest.raises(ShardRefusedError, match=message):
        read_all(forge, forge.shard(tmp_path / "bad.h5", columns=columns))


def test_a_pseudonym_twice_in_one_shard(forge: Forge, tmp_path: Path) -> None:
    columns = forge.columns()
    columns["pseudonyms"][4] = columns["pseudonyms"][9]
    with pytest.raises(ShardRefusedError, match="repeats a pseudonym"):
        read_all(forge, forge.shard(tmp_path / "bad.h5", columns=columns))


def test_a_change_between_the_check_and_the_reading_is_noticed(
    forge: Forge, tmp_path: Path
) -> None:
    path = forge.shard(tmp_path / "good.h5")
    with open_shard(path, forge.study, forge.content) as reader:
        reader.rows()
        with path.open("r+b") as file:
            file.seek(-1, 2)
            file.write(b"x")
        with pytest.raises(ShardRefusedError, match="changed while it was read"):
            list(reader.features(64))


def test_cases_with_labels_are_refused(trained: Sltool) -> None:
    forge = Forge(StudyFolder(trained.folder))
    columns = forge.columns()
    path = trained.folder / "A-prediction-00000.h5"
    forge.shard(path, columns=columns, split="prediction", sequence=0)
    ran = trained("queue", "verify", path)
    assert ran.code == 4
    assert "has labels, though its cases are to be predicted" in ran.err
    columns["labels"][:] = 0
    forge.shard(path, columns=columns, split="prediction", sequence=0)
    trained("queue", "verify", path).ok()
