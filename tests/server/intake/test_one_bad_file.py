"""One bad file in the inbox never stops the queue: the rest is taken in."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sltool.progress import Silent
from sltool.server.intake.lock import only_server
from sltool.server.intake.queue import Queue
from sltool.study.layout import StudyFolder
from sltool.study.study_file import load_study
from tests.conftest import ROOT, Ran, Sltool
from tests.shard.forge import Forge

PR_CAPBSET_DROP, OVERRIDES = 24, (1, 2, 3)


@pytest.fixture
def inbox(trained: Sltool) -> Path:
    """An inbox with one good shard, whose name comes last."""
    folder = trained.folder / "server" / "inbox"
    folder.mkdir(exist_ok=True)
    Forge(StudyFolder(trained.folder)).shard(folder / "zz-good.h5")
    return folder


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    # The address of a socket has a short limit: bind by a relative name.
    before = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path.name)
    finally:
        os.chdir(before)


def _full_folder(path: Path) -> None:
    path.mkdir()
    (path / "inner.h5").write_text("x")


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


BAD: dict[str, Callable[[Path], Any]] = {
    "fifo": _pipe,
    "socket": _socket,
    "folder": _full_folder,
    "dangling": lambda path: path.symlink_to("nowhere"),
    "loop": _loop,
    "empty": Path.touch,
}


@pytest.mark.parametrize("suffix", [".h5", ".h5.age", ".withdrawal", ".withdrawal.age"])
@pytest.mark.parametrize("kind", sorted(BAD))
def test_a_bad_file_is_set_aside_with_its_reason_and_the_others_are_taken_in(
    trained: Sltool, inbox: Path, kind: str, suffix: str
) -> None:
    name = f"aa{suffix}"
    BAD[kind](inbox / name)
    ran = trained("queue", "take", "--json")
    assert ran.code == 4, ran.err
    assert ran.json["accepted"] == ["A-train-00005.h5"]
    assert [rejected["file"] for rejected in ran.json["rejected"]] == [name]
    assert not list(inbox.iterdir())
    assert os.path.lexists(trained.folder / "server" / "rejected" / name)
    assert f"{name} was refused: the file " in trained("status").ok().err


def as_plain_user(sltool: Sltool, *args: str) -> Ran:
    """`sltool ARGS` as a user whom file permissions restrict, also if the tests run as root."""

    def drop() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        for capability in OVERRIDES if os.geteuid() == 0 else ():
            if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0):
                raise OSError(ctypes.get_errno(), "prctl")

    done = subprocess.run(
        [sys.executable, "-m", "sltool", *args],
        cwd=sltool.folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=drop,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("suffix", [".h5", ".h5.age", ".withdrawal"])
def test_an_unreadable_file_is_set_aside(trained: Sltool, inbox: Path, suffix: str) -> None:
    path = inbox / f"aa{suffix}"
    path.write_text("x")
    path.chmod(0)
    ran = as_plain_user(trained, "queue", "take", "--json")
    assert ran.code == 4, ran.err
    assert ran.json["accepted"] == ["A-train-00005.h5"]
    assert [rejected["file"] for rejected in ran.json["rejected"]] == [path.name]
    assert "Permission denied" in ran.json["rejected"][0]["reason"]
    assert (trained.folder / "server" / "rejected" / path.name).exists()


def test_a_file_that_cannot_be_moved_is_reported_and_the_others_are_taken_in(
    trained: Sltool, inbox: Path
) -> None:
    (inbox / "aa.h5").mkdir()
    # Moving a folder changes its entry '..', for which the folder has to be writable.
    (inbox / "aa.h5").chmod(0o555)
    try:
        ran = as_plain_user(trained, "queue", "take", "--json")
    finally:
        (inbox / "aa.h5").chmod(0o755)
    assert ran.code == 4, ran.err
    assert ran.json["accepted"] == ["A-train-00005.h5"]
    assert [(left["file"], left["reason"]) for left in ran.json["left"]] == [
        ("aa.h5", "the file is not a regular file")
    ]
    assert (inbox / "aa.h5").is_dir()
    assert not list((trained.folder / "server" / "rejected").glob("*"))
    assert "aa.h5 stays in the inbox: the file is not a regular file" in ran.err
    assert "could not be moved" in ran.err


def test_an_encrypted_file_waits_for_the_identity_and_the_others_are_taken_in(
    trained: Sltool, inbox: Path
) -> None:
    road = pytest.importorskip("sltool.shard.encryption")
    pytest.importorskip("pyrage", reason="the extra `age` is not installed")
    elsewhere = trained.folder.parent / "identity"
    recipient = road.make_identity(elsewhere)
    forge = Forge(StudyFolder(trained.folder))
    path = forge.shard(trained.folder / "7.h5", sequence=7, columns=forge.columns(seed=6))
    road.encrypt(path, inbox / "aa.h5.age", recipient)
    ran = trained("queue", "take", "--json")
    assert ran.code == 4, ran.err
    assert ran.json["accepted"] == ["A-train-00005.h5"]
    assert [left["file"] for left in ran.json["left"]] == ["aa.h5.age"]
    assert "no identity" in ran.err
    shutil.copy(elsewhere, trained.folder / "server" / "identity")
    assert trained("queue", "take", "--json").ok().json["accepted"] == ["A-train-00007.h5"]
    assert not list(inbox.iterdir())


def test_a_damaged_identity_rejects_nothing(trained: Sltool, inbox: Path) -> None:
    road = pytest.importorskip("sltool.shard.encryption")
    pytest.importorskip("pyrage", reason="the extra `age` is not installed")
    recipient = road.make_identity(trained.folder.parent / "identity")
    road.encrypt(inbox / "zz-good.h5", inbox / "aa.h5.age", recipient)
    (trained.folder / "server" / "identity").write_text("scribble")
    ran = trained("queue", "take", "--json")
    assert ran.code == 4
    assert (inbox / "aa.h5.age").exists()
    assert ran.json["rejected"] == []
    assert ran.json["accepted"] == ["A-train-00005.h5"]


class VanishAt(Silent):
    """Deletes a file after the queue has listed the inbox."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def bar(self, what: str, total: int, done: int = 0) -> Any:
        if what == "take in shards":
            self.path.unlink()
        return super().bar(what, total)


def test_a_file_that_vanishes_is_passed_over(trained: Sltool, inbox: Path) -> None:
    path = inbox / "aa.h5"
    path.write_text("x")
    folder = StudyFolder(trained.folder)
    with only_server(folder):
        intake = Queue(folder, load_study(folder)).take(VanishAt(path))
    assert intake.accepted == ["A-train-00005.h5"]
    assert [path.name for path in intake.vanished] == ["aa.h5"]
    assert not intake.rejected
    assert not intake.left


def test_taking_in_a_file_that_does_not_exist(trained: Sltool) -> None:
    ran = trained("queue", "take", "server/inbox/none.h5")
    assert ran.code == 3
    assert os.strerror(errno.ENOENT) in ran.err


def test_a_copy_to_the_inbox_never_replaces_an_existing_file(
    trained: Sltool, inbox: Path, tmp_path: Path
) -> None:
    (tmp_path / "zz-good.h5").write_text("x")
    assert trained("queue", "take", tmp_path / "zz-good.h5").code == 4
    assert trained("queue", "take", "--json").ok().json["accepted"] == ["A-train-00005.h5"]


def test_the_queue_continues_if_a_good_file_cannot_be_moved(trained: Sltool, inbox: Path) -> None:
    """In a folder with the sticky bit only the owner of a file can move it."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a file of another user")
    bad = inbox / "aa.h5"
    bad.write_text("x")
    os.chown(bad, 65534, 65534)
    os.chown(inbox, 65533, 65533)
    inbox.chmod(0o1777)
    os.chown(inbox / "zz-good.h5", 0, 0)
    bad.chmod(0o644)
    ran = as_plain_user(trained, "queue", "take", "--json")
    assert ran.code == 4, ran.err
    assert ran.json["accepted"] == ["A-train-00005.h5"]
    assert [left["file"] for left in ran.json["left"]] == ["aa.h5"]
    assert bad.exists()


def test_training_starts_beside_bad_files_and_says_so(trained: Sltool, inbox: Path) -> None:
    (inbox / "aa.h5.age").touch()
    ran = trained("server-train", "--run", "beside", "--json").ok()
    assert (ran.json["accepted"], ran.json["rejected"]) == (1, 1)
    assert "aa.h5.age was refused" in ran.err
