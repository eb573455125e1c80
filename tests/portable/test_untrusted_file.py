"""A received file on a system that lacks some of POSIX' calls."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sltool.errors import ShardRefusedError, SltoolError
from sltool.files import sha256
from sltool.shard.untrusted_file import UntrustedFile

BLOCK = 1000
# macOS before version 11 lacks the first alone; Windows lacks all.
LACKING = [(), ("preadv",), ("preadv", "pread", "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC")]


@pytest.fixture(params=LACKING, ids=["posix", "macos", "windows"])
def arrived(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A file of blocks, each of one byte's value."""
    for name in request.param:
        monkeypatch.delattr(os, name)
    path = tmp_path / "shard.h5"
    path.write_bytes(b"".join(bytes([value]) * BLOCK for value in range(256)))
    return path


def test_threads_read_what_they_ask_for(arrived: Path) -> None:
    start = threading.Barrier(8)

    def read(file: UntrustedFile, value: int) -> bool:
        if value < 8:
            start.wait()
        return file.read(value * BLOCK, BLOCK) == bytes([value]) * BLOCK

    with UntrustedFile(arrived) as file, ThreadPoolExecutor(8) as threads:
        for _ in range(5):
            assert all(threads.map(lambda value: read(file, value), range(256)))


def test_digests_and_copies(arrived: Path, tmp_path: Path) -> None:
    with UntrustedFile(arrived) as file:
        assert file.sha256(0) == sha256(arrived)
        assert file.sha256(BLOCK) == sha256(arrived, start=BLOCK)
        first = tmp_path / "first"
        first.write_bytes(arrived.read_bytes()[BLOCK : 2 * BLOCK])
        assert file.sha256(BLOCK, 2 * BLOCK) == sha256(first)
        with (tmp_path / "copy").open("wb") as copy:
            file.copy_to(copy)
        assert (tmp_path / "copy").read_bytes() == arrived.read_bytes()
        with os.fdopen(file.duplicate(), "rb") as other:
            assert other.read() == arrived.read_bytes()


def test_a_link_that_takes_the_place_of_an_examined_file(
    arrived: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    system_open = os.open

    def swap_and_open(path: Path, flags: int, *rest: int) -> int:
        arrived.unlink()
        arrived.symlink_to(secret)
        return system_open(path, flags, *rest)

    monkeypatch.setattr(os, "open", swap_and_open)
    with pytest.raises(SltoolError) as refused:
        UntrustedFile(arrived)
    assert "secret" not in str(refused.value)


def test_links_folders_and_pipes_are_refused(arrived: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(arrived)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "folder", "pipe"):
        with pytest.raises(ShardRefusedError, match="not a regular file"):
            UntrustedFile(tmp_path / name)
