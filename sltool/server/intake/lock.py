"""The lock that lets only one server at a time work on a study."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from filelock import FileLock, Timeout

from sltool.errors import StorageError, UsageError
from sltool.files import PRIVATE_FILE, private_folder, remove, write_text
from sltool.study.layout import StudyFolder


@contextmanager
def only_server(folder: StudyFolder) -> Iterator[None]:
    """Hold `server/lock`; the operating system releases it however the process ends.

    `server/lock-holder` has the ID of the process that holds it, since no other process can read a
    locked file on Windows.

    Raises:
        UsageError: another process holds it.
        StorageError: the lock cannot be made.
    """
    with _acquired(folder):
        write_text(folder.lock_holder, f"{os.getpid()}\n")
        try:
            yield
        finally:
            remove(folder.lock_holder)


def _acquired(folder: StudyFolder) -> AbstractContextManager[object]:
    """The acquired lock; leaving the context releases it."""
    try:
        private_folder(folder.server)
        return FileLock(folder.lock, mode=PRIVATE_FILE).acquire(blocking=False)
    except Timeout as error:
        raise UsageError(
            "another server is at work on this study",
            where=folder.lock,
            hint=f"wait for {_holder(folder)}, or stop it",
        ) from error
    except OSError as error:
        raise StorageError.of(error, folder.lock) from error


def _holder(folder: StudyFolder) -> str:
    try:
        return f"process {folder.lock_holder.read_text(encoding='utf-8').strip()}"
    except OSError:
        # The other process has not written the file yet, or runs as another user.
        return "the other process"
