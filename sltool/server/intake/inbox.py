"""The inbox. Its files are untrusted: links are not followed, and no read waits for data."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sltool.errors import ImmovableError, SltoolError, StorageError
from sltool.files import move, remove, write_json
from sltool.shard.encryption import SUFFIX as AGE
from sltool.shard.withdrawal import SUFFIX as WITHDRAWAL
from sltool.study.layout import StudyFolder

SHARD = ".h5"
REASON = ".reason.json"
# A malformed file may still be being copied: it is watched for this long before it is refused.
SETTLE_SECONDS = 2.0
# The longest stem in `rejected/` and `held/`: leaves room for a counter and for REASON.
NAME_BYTES = 200
# Errors on moving a file that concern this file only.
SINGLE_FILE_ERRORS = (errno.EACCES, errno.EPERM, errno.ENOENT, errno.EBUSY)


def waiting(folder: StudyFolder) -> list[Path]:
    """The files in the inbox with the name of a shard or a withdrawal, withdrawals first.

    Raises:
        StorageError: the inbox could not be listed.
    """
    try:
        files = [path for path in folder.inbox.iterdir() if kind_of(path)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError.of(error, folder.inbox, "read") from error
    return sorted(files, key=lambda path: (kind_of(path) != WITHDRAWAL, path.name))


def kind_of(path: Path) -> str:
    """The type by name: `.h5`, `.withdrawal`, or '' for any other."""
    suffix = Path(path.name.removesuffix(AGE)).suffix
    return suffix if suffix in (SHARD, WITHDRAWAL) else ""


class ArrivalTimer:
    """Tells a damaged file from a file that is still being copied."""

    def __init__(self, seconds: float = SETTLE_SECONDS) -> None:
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds

    def still_arriving(self, path: Path) -> bool:
        """Whether the file changes while watched, until it has been unchanged for `seconds`.

        All calls together wait at most `seconds`, whatever the files' modification times are.
        """
        before = _regular(path)
        if before is None:
            return False
        remaining = self._seconds - (time.time() - before.st_mtime)
        left = min(remaining, self._deadline - time.monotonic())
        while left > 0:
            time.sleep(min(left, 0.1))
            left -= 0.1
            if _changed(path, before):
                return True
        return _changed(path, before)


def _regular(path: Path) -> os.stat_result | None:
    """The file's status; None if it is not a regular file or does not exist."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def _changed(path: Path, before: os.stat_result) -> bool:
    """Whether the file was written to; False if it no longer exists."""
    now = _regular(path) or before
    return (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns)


def move_with_reason(path: Path, folder: Path, error: SltoolError) -> None:
    """Move a file, unchanged, into `folder`, with a file beside it that states the reason.

    Raises:
        ImmovableError: this file cannot be moved; it stays where it is.
        StorageError: no space or no permission in `folder`.
    """
    target = free_name(folder, path.name)
    record = target.with_name(target.name + REASON)
    reason = {"file": printable(path.name), "exit_code": error.exit_code, "reason": error.what}
    write_json(record, {**reason, **dict(error.details())})
    try:
        with immovable_errors(path):
            move(path, target)
    except ImmovableError:
        remove(record)
        raise


@contextmanager
def immovable_errors(path: Path) -> Iterator[None]:
    """Raise `ImmovableError` if the system refuses to move or delete `path`."""
    try:
        yield
    except StorageError as error:
        cause = error.__cause__
        if not isinstance(cause, OSError) or cause.errno not in SINGLE_FILE_ERRORS:
            raise
        raise ImmovableError(
            f"the file could not be moved: {cause.strerror}",
            where=path,
            hint="move it by hand, or give the server's user the permission",
        ) from error


def free_name(folder: Path, name: str) -> Path:
    """An unused path in `folder`: `name`, shortened if too long, with a counter if it exists."""
    suffix = "".join(Path(name).suffixes[-2:])[-20:]
    stem = name.removesuffix(suffix).encode("utf-8", "surrogateescape")[:NAME_BYTES]
    short = stem.decode("utf-8", "surrogateescape")
    target, counter = folder / f"{short}{suffix}", 1
    while os.path.lexists(target):
        target = folder / f"{short}.{counter}{suffix}"
        counter += 1
    return target


def printable(name: str) -> str:
    """The name with control and undecodable characters escaped, safe for a terminal."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in name.encode("utf-8", "backslashreplace").decode("utf-8")
    )
