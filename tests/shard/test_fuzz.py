"""Thousands of modified shards: each is refused, and none causes another error.

`make fuzz` takes ten times as many.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sltool.errors import NotTrustedError, ShardRefusedError, StudyMismatchError
from sltool.shard.manifest import USER_BLOCK
from sltool.shard.reader import open_shard
from sltool.study.layout import StudyFolder
from tests.shard.forge import Forge

TIMES = 10 if os.environ.get("SLTOOL_FUZZ") == "long" else 1
UNSIGNED, SIGNED, STRUCTURED = 10_000 * TIMES, 1000 * TIMES, 150 * TIMES
SECONDS = 5.0


@pytest.fixture(scope="module")
def forge(trained_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Forge:
    folder = tmp_path_factory.mktemp("fuzz") / "study"
    shutil.copytree(trained_study, folder)
    return Forge(StudyFolder(folder))


@pytest.fixture(scope="module")
def good(forge: Forge) -> Path:
    return forge.shard(forge.folder.root / "good.h5")


def accepted(forge: Forge, path: Path) -> bool:
    """Whether the reader accepts it; any error other than a refusal propagates."""
    started = time.monotonic()
    try:
        with open_shard(path, forge.study, forge.content) as reader:
            reader.rows()
            for _ in reader.features(64):
                pass
    except (ShardRefusedError, NotTrustedError, StudyMismatchError):
        return False
    finally:
        assert time.monotonic() - started < SECONDS
    return True


def many(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def mutations() -> st.SearchStrategy[tuple[str, float, int, bytes]]:
    """What to do, where (as a share of the region), how far, and with which bytes.

    One drawn number decides all of it, which is several times as fast as drawing each.
    """

    def of(seed: int) -> tuple[str, float, int, bytes]:
        chosen = random.Random(seed)
        kind = chosen.choice(["flip", "put", "insert", "remove", "cut", "append", "swap"])
        new = chosen.randbytes(chosen.randint(1, 16))
        return kind, chosen.random(), chosen.randint(1, 64), new

    return st.integers(0, 2**63).map(of)


def mutate(data: bytes, mutation: tuple[str, float, int, bytes]) -> bytes:
    kind, share, length, new = mutation
    place = int(share * len(data))
    if kind == "flip":
        return data[:place] + bytes([data[place] ^ (1 << length % 8)]) + data[place + 1 :]
    if kind == "put":
        return (data[:place] + new + data[place + len(new) :])[: max(len(data), place + len(new))]
    if kind == "insert":
        return data[:place] + new + data[place:]
    if kind == "remove":
        return data[:place] + data[place + length :]
    if kind == "cut":
        return data[:place]
    if kind == "append":
        return data + new
    return data[:place] + data[place + length : place + 2 * length] + data[place:]


REGIONS = {
    "user block": slice(0, 1100),
    "padding": slice(1100, USER_BLOCK),
    "headers": slice(USER_BLOCK, USER_BLOCK + 1500),
    "payload": slice(USER_BLOCK, None),
    "file": slice(0, None),
}


@pytest.mark.slow
@pytest.mark.parametrize("region", REGIONS)
def test_no_unsigned_change_is_accepted(forge: Forge, good: Path, region: str) -> None:
    assert accepted(forge, good), "the positive control"
    data, part = good.read_bytes(), REGIONS[region]
    path = good.with_name("changed.h5")

    @many(UNSIGNED // len(REGIONS))
    @given(mutations())
    def run(mutation: tuple[str, float, int, bytes]) -> None:
        changed = mutate(data[part], mutation)
        whole = data[: part.start] + changed + (data[part.stop :] if part.stop else b"")
        path.write_bytes(whole)
        assert whole == data or not accepted(forge, path)

    run()


@pytest.mark.slow
def test_no_signed_change_of_the_payload_is_accepted(forge: Forge, good: Path) -> None:
    """A hostile site can sign anything, but every byte of the payload has a meaning."""
    data, path = good.read_bytes(), good.with_name("signed.h5")

    @many(SIGNED)
    @given(mutations(), st.sampled_from(["headers", "payload"]))
    def run(mutation: tuple[str, float, int, bytes], region: str) -> None:
        part = REGIONS[region]
        changed = mutate(data[part], mutation)
        whole = data[: part.start] + changed + (data[part.stop :] if part.stop else b"")
        path.write_bytes(whole if len(whole) > USER_BLOCK else data[:USER_BLOCK] + b"x")
        forge.sign(path, 20)
        assert whole == data or not accepted(forge, path)

    run()


def test_changes_through_hdf5_itself(forge: Forge, good: Path) -> None:
    """Chunks written raw, with any filter mask, at any place; members moved, linked and resized."""
    path = good.with_name("structured.h5")
    names = ["features", "labels", "pseudonyms", "groups"]
    changes = st.tuples(
        st.sampled_from(["chunk", "mask", "delete", "rename", "link", "attribute", "retype"]),
        st.sampled_from(names),
        st.binary(min_size=1, max_size=64),
        st.integers(1, 7),
    )

    @many(STRUCTURED)
    @given(st.lists(changes, min_size=1, max_size=3))
    def run(chosen: list[tuple[str, str, bytes, int]]) -> None:
        shutil.copyfile(good, path)
        with h5py.File(path, "r+", libver=("v108", "v108")) as file:
            for change in chosen:
                restructure(file, *change)
        forge.sign(path, 20)
        assert not accepted(forge, path)

    run()


def test_no_flipped_bit_of_the_signature_is_accepted(forge: Forge, good: Path) -> None:
    """Each in turn: base64 has bits that a decoder may ignore."""
    data, path = good.read_bytes(), good.with_name("flipped.h5")
    start = data.index(b"\ned25519:") + 1
    for place in range(start, data.index(b"\n", start) + 1):
        for bit in range(8):
            path.write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
            assert not accepted(forge, path), (place, bit)


def restructure(file: h5py.File, kind: str, name: str, data: bytes, mask: int) -> None:
    dataset = file.get(name)
    if not isinstance(dataset, h5py.Dataset) or not dataset.chunks or f"moved-{name}" in file:
        return
    start = (0,) * dataset.ndim
    if kind == "chunk":
        dataset.id.write_direct_chunk(start, data)
    elif kind == "mask":
        raw = np.zeros(dataset.chunks, dataset.dtype).tobytes()
        dataset.id.write_direct_chunk(start, raw, filter_mask=mask)
    elif kind == "delete":
        del file[name]
    elif kind == "rename":
        file.move(name, f"moved-{name}")
    elif kind == "link":
        link = f"link-{mask}-{name}-{len(file)}"
        if link not in file:
            file[link] = h5py.SoftLink("/" + name)
    elif kind == "attribute":
        dataset.attrs["x"] = np.frombuffer(data, np.uint8)
    else:
        del file[name]
        file[name] = np.zeros(20, ("<f8", "<i8", "<u2")[mask % 3])
