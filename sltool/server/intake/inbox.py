"""What lies in the inbox: strangers put it there, so nothing in it is followed or waited for."""

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
# A file that breaks the format may still be growing; so long it is watched.
SETTLE_SECONDS = 2.0
# Names in `rejected/` and `held/` keep room for a number and for REASON.
NAME_BYTES = 200
# Why the system may refuse to move one file and not another.
OF_ONE_FILE = (errno.EACCES, errno.EPERM, errno.ENOENT, errno.EBUSY)


def waiting(folder: StudyFolder) -> list[Path]:
    """The names in the inbox that a shard or a withdrawal can have, withdrawals first.

    Raises:
        StorageError: the system refused to list the inbox.
    """
    try:
        names = [path for path in folder.inbox.iterdir() if kind_of(path)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError.of(error, folder.inbox, "read") from error
    return sorted(names, key=lambda path: (kind_of(path) != WITHDRAWAL, path.name))


def kind_of(path: Path) -> str:
    """`.h5`, `.withdrawal`, or '' for any other name."""
    suffix = Path(path.name.removesuffix(AGE)).suffix
    return suffix if suffix in (SHARD, WITHDRAWAL) else ""


class ArrivalTimer:
    """Tells a broken file from one that is still being copied."""

    def __init__(self, seconds: float = SETTLE_SECONDS) -> None:
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds

    def still_arriving(self, path: Path) -> bool:
        """Whether the file changes before it has been still for some seconds.

        All calls together wait no longer than that, whatever the files' times say.
        """
        before = _regular(path)
        if before is None:
            return False
        fresh = self._seconds - (time.time() - before.st_mtime)
        left = min(fresh, self._deadline - time.monotonic())
        while left > 0:
            time.sleep(min(left, 0.1))
            left -= 0.1
            if _changed(path, before):
                return True
        return _changed(path, before)


def _regular(path: Path) -> os.stat_result | None:
    """What the system knows of a regular file; None of anything else, or of none."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found if stat.S_ISREG(found.st_mode) else None


def _changed(path: Path, before: os.stat_result) -> bool:
    """Whether the file was written to; one that is gone was not."""
    now = _regular(path) or before
    return (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns)


def quarantine(path: Path, folder: Path, error: SltoolError) -> None:
    """Move a file, untouched, into `folder` beside a file with the reason.

    Raises:
        ImmovableError: the system does not let go of this file; it is where it was.
        StorageError: no space or no permission in `folder`.
    """
    target = free_name(folder, path.name)
    record = target.with_name(target.name + REASON)
    reason = {"file": shown(path.name), "exit_code": error.exit_code, "reason": error.what}
    write_json(record, {**reason, **dict(error.details())})
    try:
        with letting_go(path):
            move(path, target)
    except ImmovableError:
        remove(record)
        raise


@contextmanager
def letting_go(path: Path) -> Iterator[None]:
    """Turn the system's refusal to move or delete `path` into an `ImmovableError`."""
    try:
        yield
    except StorageError as error:
        cause = error.__cause__
        if not isinstance(cause, OSError) or cause.errno not in OF_ONE_FILE:
            raise
        raise ImmovableError(
            f"the file could not be moved: {cause.strerror}",
            where=path,
            hint="move it away by hand, or let the server's user do it",
        ) from error


def free_name(folder: Path, name: str) -> Path:
    """A path in `folder` that is free: `name`, shortened if need be, with a number if need be."""
    suffix = "".join(Path(name).suffixes[-2:])[-20:]
    stem = name.removesuffix(suffix).encode("utf-8", "surrogateescape")[:NAME_BYTES]
    short = stem.decode("utf-8", "surrogateescape")
    target, number = folder / f"{short}{suffix}", 1
    while os.path.lexists(target):
        target = folder / f"{short}.{number}{suffix}"
        number += 1
    return target


def shown(name: str) -> str:
    """A name that a terminal can show: control and undecodable characters are escaped."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in name.encode("utf-8", "backslashreplace").decode("utf-8")
    )
