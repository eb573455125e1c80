"""Publishing files: a file appears whole under its final name, or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sltool.errors import StorageError

PART = ".part"


def part_of(path: Path) -> Path:
    """The name under which a file is written before it is published."""
    return path.with_name(path.name + PART)


@contextmanager
def publish(path: Path, mode: int | None = None) -> Iterator[Path]:
    """Yield `NAME.part` to write to; on success flush, fsync, rename and fsync the folder.

    Args:
        path: the final name; its folder is made if need be.
        mode: permission bits, set before the body writes anything.

    Raises:
        StorageError: the operating system refused a step. The partial file is removed.
    """
    part = part_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if mode is not None:
            part.unlink(missing_ok=True)
            os.close(os.open(part, os.O_CREAT | os.O_WRONLY | os.O_EXCL, mode))
        yield part
        fsync(part)
        part.replace(path)
        fsync(path.parent)
    except OSError as error:
        _discard(part)
        raise StorageError.of(error, path) from error
    except BaseException:
        _discard(part)
        raise


def _discard(part: Path) -> None:
    if part.parent.is_dir() and os.access(part.parent, os.W_OK):
        part.unlink(missing_ok=True)


def move(path: Path, target: Path) -> None:
    """Rename a file into another folder of the same disk, lastingly; links are not followed.

    Raises:
        StorageError: the operating system refused it; the file is where it was.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
        fsync(target.parent)
    except OSError as error:
        raise StorageError.of(error, target) from error


def remove(path: Path) -> None:
    """Delete a file that may be gone already.

    Raises:
        StorageError: the operating system refused.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError.of(error, path, "delete") from error


def fsync(path: Path) -> None:
    """Push a file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def early_writeback(path: Path, every: int) -> Iterator[Callable[[int], None]]:
    """Push a growing file to the disk while the next bytes are made, so that `publish` need not.

    Yields:
        A function to call with the number of bytes written; after each `every` bytes the disk
        is set to work in a thread.
    """
    pending = 0
    under_way: Future[None] | None = None

    def wrote(size: int) -> None:
        nonlocal pending, under_way
        pending += size
        if pending >= every and (under_way is None or under_way.done()):
            if under_way is not None:
                under_way.result()
            pending, under_way = 0, thread.submit(fsync, path)

    with ThreadPoolExecutor(1) as thread:
        yield wrote
        if under_way is not None:
            under_way.result()


def write_text(path: Path, text: str, mode: int | None = None) -> None:
    """Publish a text file, UTF-8."""
    with publish(path, mode) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Publish a JSON document, indented for readers."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys, no spaces and ASCII only: what digests and signatures cover."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    ).encode("ascii")


def sha256(path: Path, start: int = 0) -> str:
    """Hex SHA-256 of a file from byte `start` to its end."""
    with path.open("rb") as file:
        file.seek(start)
        return hashlib.file_digest(file, "sha256").hexdigest()
