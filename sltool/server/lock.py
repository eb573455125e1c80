"""One server at a time works on a study."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from sltool.errors import StorageError, UsageError
from sltool.files import open_in_place
from sltool.layout import StudyFolder


@contextmanager
def only_server(folder: StudyFolder) -> Iterator[None]:
    """Hold `server/lock`; the system lets go of it however the process ends.

    Raises:
        UsageError: another process holds it.
    """
    with _locked(folder):
        yield


def _locked(folder: StudyFolder) -> IO[str]:
    """The lock file, locked, with this process's number in it; closing it lets go."""
    try:
        file = open_in_place(folder.lock, "a+")
        _take(file.fileno(), folder)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        return file
    except OSError as error:
        raise StorageError.of(error, folder.lock) from error


def _take(handle: int, folder: StudyFolder) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = folder.lock.read_text(encoding="utf-8", errors="replace").strip()
        raise UsageError(
            "another server is at work on this study",
            where=folder.lock,
            hint=f"wait for process {holder}, or stop it",
        ) from error
