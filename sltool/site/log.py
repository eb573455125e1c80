"""`sites/SITE/log.jsonl`: who did what at this site, when, and with which files.

One canonical JSON object a line, only ever appended to. Each entry has the SHA-256 of the line
before it, and `log.head` the count and the digest of the last one, so that a removed or changed
entry is noticed. Somebody who may write to both files could forge the log as a whole; who wants to
rule that out keeps the digest that `sltool log` prints somewhere else.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from typing_extensions import TypedDict

from sltool.errors import BadDataError, StorageError
from sltool.files import (
    PRIVATE_FILE,
    canonical_json,
    open_in_place,
    parse_json,
    part_of,
    private_folder,
    read_json,
    remove,
    write_json,
)
from sltool.study.layout import SiteFolder

WAIT_SECONDS = 30
DAMAGED = "restore the file from a backup; the digest of its last entry tells which one is right"


class LogEntry(TypedDict):
    """A line of the log.

    Attributes:
        number: counts from 0; also lines that were not written completely.
        time: UTC.
        user: of the operating system.
        event: joined, enrolled, encoded, encoded-cases, audited, accepted-risk, shipping,
            shipped or withdrew.
        details: what the event was about, with digests; no name of a patient.
        previous: hex SHA-256 of the line before; null in the first entry.
    """

    number: int
    time: str
    user: str
    event: str
    details: dict[str, Any]
    previous: str | None


class _Head(TypedDict):
    """`log.head`: the number of lines, and the SHA-256 of the last one."""

    entries: int
    digest: str


@dataclass(frozen=True)
class SiteLog:
    """The log as it is now.

    Attributes:
        digest: hex SHA-256 of the last complete line; '' if there is none.
        problems: what shows that entries were removed or changed.
        torn: numbers of lines that were not written completely, as after a power failure.
    """

    site: str
    entries: Sequence[LogEntry]
    digest: str
    problems: Sequence[str]
    torn: Sequence[int]


def append(site: SiteFolder, event: str, **details: Any) -> None:
    """Add an entry, which is on the disk when this returns.

    Raises:
        StorageError: the log cannot be written.
    """
    with _locked(site):
        lines, torn = _lines(site.log)
        if torn:
            lines.append(torn)
        line = canonical_json(
            LogEntry(
                number=len(lines),
                time=datetime.now(UTC).isoformat(timespec="seconds"),
                user=_user(),
                event=event,
                details=details,
                previous=_digest(lines[-1]) if lines else None,
            )
        )
        with open_in_place(site.log, "ab") as file:
            # What a crash left of a line stays, as a line of its own.
            file.write((b"\n" if torn else b"") + line + b"\n")
            file.flush()
            os.fsync(file.fileno())
        write_json(site.log_head, _Head(entries=len(lines) + 1, digest=_digest(line)))


def clean_up(site: SiteFolder) -> None:
    """Remove the unfinished `log.head` of a crash; the one before it is right, one entry behind.

    Raises:
        StorageError: it cannot be removed.
    """
    part = part_of(site.log_head)
    if part.exists():
        with _locked(site):
            remove(part)


def append_once(site: SiteFolder, event: str, **details: Any) -> None:
    """As `append`, unless the log has an entry of this event with these details."""
    clean_up(site)
    known = ((entry["event"], entry["details"]) for entry in read_log(site).entries)
    if (event, details) not in known:
        append(site, event, **details)


def read_log(site: SiteFolder) -> SiteLog:
    """Read the log and check its chain; an absent log has no entries.

    Raises:
        StorageError: it cannot be read.
        BadDataError: `log.head` is damaged.
    """
    lines, rest = _lines(site.log)
    entries, torn, problems = [], [], []
    for number, line in enumerate(lines):
        entry = _parsed(line, site.log)
        if entry is None:
            torn.append(number)
            continue
        entries.append(entry)
        previous = _digest(lines[number - 1]) if number else None
        if entry["number"] != number or entry["previous"] != previous:
            problems.append(f"before entry {number}, an entry was removed or changed")
    if rest:
        torn.append(len(lines))
    digest = _digest(lines[-1]) if lines else ""
    problems += _end_problems(site, lines)
    return SiteLog(site.name, entries, digest, problems, torn)


def _end_problems(site: SiteFolder, lines: Sequence[bytes]) -> Iterator[str]:
    """What is wrong with the end of the log, which no later entry vouches for."""
    if not site.log_head.is_file():
        # A crash may have come between the first entry and its head.
        if len(lines) > 1:
            yield "log.head, which has the digest of the last entry, was removed"
        return
    head = read_json(site.log_head, _Head, "the head of the log", DAMAGED)
    missing = head["entries"] - len(lines)
    if missing > 0:
        verb = "was" if missing == 1 else "were"
        yield f"at the end, {missing} of {head['entries']} entries {verb} removed"
    elif missing < -1 or _digest(lines[head["entries"] - 1]) != head["digest"]:
        yield "the last entry was changed"


def _parsed(line: bytes, path: Path) -> LogEntry | None:
    """An entry; None for a line that was not written completely, or that somebody changed."""
    try:
        return parse_json(line, LogEntry, path, "the log", DAMAGED)
    except BadDataError:
        return None


def _lines(path: Path) -> tuple[list[bytes], bytes]:
    """The complete lines, and what a crash left of one after them."""
    try:
        *lines, rest = path.read_bytes().split(b"\n") if path.exists() else [b""]
    except OSError as error:
        raise StorageError.of(error, path, "read") from error
    return lines, rest


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _user() -> str:
    """The name of the user whom the process runs as, whatever the environment says."""
    if hasattr(os, "getuid"):
        import pwd

        try:
            return pwd.getpwuid(os.getuid()).pw_name
        except KeyError:
            return f"uid {os.getuid()}"
    # On Windows, of the process's access token.
    return os.getlogin()


@contextmanager
def _locked(site: SiteFolder) -> Iterator[None]:
    """Let one process at a time append; what the system refuses is a `StorageError`."""
    try:
        private_folder(site.private_dir)
        with FileLock(site.log_lock, mode=PRIVATE_FILE).acquire(timeout=WAIT_SECONDS):
            yield
    except Timeout as error:
        raise StorageError(
            "another process has been writing to the log for too long",
            where=site.log_lock,
            hint="end the other process, then run the command again",
        ) from error
    except OSError as error:
        raise StorageError.of(error, site.log) from error
