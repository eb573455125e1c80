"""What lies in the inbox: strangers put it there, so nothing in it is followed or waited for."""

from __future__ import annotations

import stat
import time
from pathlib import Path

from sltool.errors import SltoolError
from sltool.files import move, write_json
from sltool.layout import StudyFolder
from sltool.shard.road import SUFFIX as AGE
from sltool.shard.withdrawal import SUFFIX as WITHDRAWAL

SHARD = ".h5"
REASON = ".reason.json"
# A file that breaks the format may still be growing; so long it is watched.
SETTLE_SECONDS = 2.0
# Names in `rejected/` and `held/` keep room for a number and for REASON.
NAME_BYTES = 200


def waiting(folder: StudyFolder) -> list[Path]:
    """The names in the inbox that a shard or a withdrawal can have, withdrawals first."""
    if not folder.inbox.is_dir():
        return []
    names = [path for path in folder.inbox.iterdir() if kind_of(path)]
    return sorted(names, key=lambda path: (kind_of(path) != WITHDRAWAL, path.name))


def kind_of(path: Path) -> str:
    """`.h5`, `.withdrawal`, or '' for any other name."""
    suffix = Path(path.name.removesuffix(AGE)).suffix
    return suffix if suffix in (SHARD, WITHDRAWAL) else ""


class Patience:
    """Tells a broken file from one that is still being copied."""

    def __init__(self, seconds: float = SETTLE_SECONDS) -> None:
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds

    def still_arriving(self, path: Path) -> bool:
        """Whether the file changes before it has been still for some seconds.

        All calls together wait no longer than that, whatever the files' times say.
        """
        before = path.lstat()
        if not stat.S_ISREG(before.st_mode):
            return False
        fresh = self._seconds - (time.time() - before.st_mtime)
        left = min(fresh, self._deadline - time.monotonic())
        while left > 0:
            time.sleep(min(left, 0.1))
            left -= 0.1
            if _state(path) != (before.st_size, before.st_mtime_ns):
                return True
        return _state(path) != (before.st_size, before.st_mtime_ns)


def _state(path: Path) -> tuple[int, int]:
    now = path.lstat()
    return now.st_size, now.st_mtime_ns


def put_aside(path: Path, folder: Path, error: SltoolError) -> Path:
    """Move a file, untouched, into `folder` beside a file with the reason; its new place."""
    target = _free_name(folder, path.name)
    reason = {"file": shown(path.name), "exit_code": error.exit_code, "reason": error.what}
    write_json(target.with_name(target.name + REASON), {**reason, **dict(error.details())})
    move(path, target)
    return target


def _free_name(folder: Path, name: str) -> Path:
    suffix = "".join(Path(name).suffixes[-2:])[-20:]
    stem = name.removesuffix(suffix).encode("utf-8", "surrogateescape")[:NAME_BYTES]
    short = stem.decode("utf-8", "surrogateescape")
    target, number = folder / f"{short}{suffix}", 1
    while target.is_symlink() or target.exists():
        target = folder / f"{short}.{number}{suffix}"
        number += 1
    return target


def shown(name: str) -> str:
    """A name that a terminal can show: control and undecodable characters are escaped."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in name.encode("utf-8", "backslashreplace").decode("utf-8")
    )
