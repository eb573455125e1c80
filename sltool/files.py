"""File input and output: private permissions, atomic publication, checked reading.

Files are created with mode 0600 in folders of mode 0700, whatever the umask, since most contain
personal data or lead to it; `public=True` is for files that do not. On Windows files have no mode:
they get the access list of their folder, which Python limits to the user for a folder of mode 0700.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from sltool.errors import BadDataError, StorageError

Document = TypeVar("Document")

PART = ".part"
PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700
# Readable but not writable by others: study.yaml lists whose signatures are valid.
PUBLIC_FILE = 0o644
OTHERS = 0o077
# Windows opens no folder, and renames or deletes no file that any program has open.
WINDOWS = not hasattr(os, "O_DIRECTORY")
# Seconds to wait there for such a program, mostly a virus scanner, before each further attempt.
PAUSES = (0.05, 0.2, 0.5, 1.0) if WINDOWS else ()


def part_of(path: Path) -> Path:
    """The name under which a file is written before it is published."""
    return path.with_name(path.name + PART)


def private_folder(path: Path) -> Path:
    """Make the folder and its missing parents, each with mode 0700, and return `path`.

    An existing folder keeps its permissions: it may be one that the user has provided.

    Raises:
        OSError: the operating system refused.
    """
    missing = []
    for folder in (path, *path.parents):
        if folder.is_dir():
            break
        missing.append(folder)
    for folder in reversed(missing):
        folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    return path


def close_to_others(path: Path) -> None:
    """Remove all permissions of group and others from a file or folder.

    Links, pipes and devices are left unchanged. Where the file system has no permissions, or
    another user owns the file, the private folder that contains it keeps others out.
    """
    mode = path.lstat().st_mode
    if (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) and mode & OTHERS:
        try:
            path.chmod(stat.S_IMODE(mode) & ~OTHERS)
        except PermissionError:
            return


def open_in_place(path: Path, mode: str) -> IO[Any]:
    """`open` for a private file that is modified in place; its folder is made if missing.

    Raises:
        OSError: the operating system refused.
    """
    private_folder(path.parent)
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    file = open(path, mode, opener=_opener, **text)  # type: ignore[call-overload]  # noqa: SIM115
    close_to_others(path)
    return cast("IO[Any]", file)


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags, PRIVATE_FILE)


@contextmanager
def publish(path: Path, *, public: bool = False) -> Iterator[Path]:
    """Yield `NAME.part` to write to; on success flush, fsync, rename and fsync the folder.

    Args:
        path: the final name; its folder is made, with mode 0700, if missing.
        public: the file has no personal data; others may read it if the umask permits.

    Raises:
        StorageError: the operating system refused a step. The partial file is removed.
    """
    part = part_of(path)
    try:
        private_folder(path.parent)
        part.unlink(missing_ok=True)
        mode = PUBLIC_FILE if public else PRIVATE_FILE
        os.close(os.open(part, os.O_CREAT | os.O_WRONLY | os.O_EXCL, mode))
        yield part
        fsync(part)
        _patiently(lambda: part.replace(path))
        fsync_folder(path.parent)
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
    """Rename a file into a private folder of the same file system, durably; links are not followed.

    Raises:
        StorageError: the operating system refused; the file was not moved.
    """
    try:
        private_folder(target.parent)
        _patiently(lambda: path.replace(target))
        close_to_others(target)
        fsync_folder(target.parent)
    except OSError as error:
        raise StorageError.of(error, target) from error


def remove(path: Path) -> None:
    """Delete a file, if it exists.

    Raises:
        StorageError: the operating system refused.
    """
    try:
        _patiently(lambda: path.unlink(missing_ok=True))
    except OSError as error:
        raise StorageError.of(error, path, "delete") from error


def _patiently(action: Callable[[], object]) -> None:
    """Rename or delete; where another program can prevent it for a moment, again after `PAUSES`."""
    for seconds in PAUSES:
        try:
            action()
            return
        except PermissionError:
            time.sleep(seconds)
    action()


def fsync(path: Path) -> None:
    """Flush a file to the disk."""
    # Windows flushes only what is open for writing.
    _flush(path, os.O_RDWR)


def fsync_folder(path: Path) -> None:
    """Flush a folder's list of files to the disk; on Windows the file system's journal has it."""
    if not WINDOWS:
        _flush(path, os.O_RDONLY)


def _flush(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def early_writeback(path: Path, every: int) -> Iterator[Callable[[int], None]]:
    """Flush a growing file in the background, so that the final fsync of `publish` is short.

    Yields:
        A function to call with the number of bytes written; after each `every` bytes a thread
        calls fsync.
    """
    pending = 0
    running: Future[None] | None = None

    def report_written(size: int) -> None:
        nonlocal pending, running
        pending += size
        if pending >= every and (running is None or running.done()):
            if running is not None:
                running.result()
            pending, running = 0, thread.submit(fsync, path)

    with ThreadPoolExecutor(1) as thread:
        yield report_written
        if running is not None:
            running.result()


def copy(path: Path, target: Path) -> None:
    """Publish a private copy of a file."""
    with publish(target) as part:
        shutil.copyfile(path, part)


def write_text(path: Path, text: str, *, public: bool = False) -> None:
    """Publish a UTF-8 text file; its bytes are the same on every system."""
    with publish(path, public=public) as part:
        part.write_bytes(text.encode("utf-8"))


def write_json(path: Path, value: Any, *, public: bool = False) -> None:
    """Publish a JSON document, indented for readers."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n", public=public)


def read_json(path: Path, kind: type[Document], what: str, hint: str) -> Document:
    """Read a JSON document and check its type, since files may be damaged or edited.

    Args:
        kind: the expected type, which pydantic must be able to check, such as `dict[str, int]` or a
            `TypedDict`, of which further keys are allowed.
        what: a description of the file for the message, such as 'the record of run X'.
        hint: what the user should do if it is damaged.

    Raises:
        StorageError: it cannot be read, or does not exist.
        BadDataError: it is not JSON, or not of that type.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise StorageError.of(error, path, "read") from error
    return parse_json(text, kind, path, what, hint)


def parse_json(
    text: str | bytes, kind: type[Document], path: Path, what: str, hint: str
) -> Document:
    """As `read_json`, for text that was read from the file `path`."""
    from pydantic import TypeAdapter, ValidationError

    try:
        document: Document = json.loads(text)
        # The document is not replaced by the validated value, which would lack further keys.
        TypeAdapter(kind).validate_python(document, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        problem = f"{place}: {first['msg']}" if place else first["msg"]
        raise _damaged(what, problem, path, hint) from error
    except (ValueError, RecursionError) as error:
        raise _damaged(what, f"it is not JSON: {error}", path, hint) from error
    return document


def _damaged(what: str, problem: str, path: Path, hint: str) -> BadDataError:
    return BadDataError(f"{what} is damaged: {problem}", where=path, hint=hint)


def csv_text(rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    """A CSV table with a header line.

    Args:
        columns: the columns in order; None for all keys in order of appearance. A key that a row
            lacks gives an empty cell.
    """
    if columns is None:
        rows = list(rows)
        columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    # Not a DictWriter, which takes twice as long.
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([row.get(column, "") for column in columns] for row in rows)
    return text.getvalue()


def write_csv(
    path: Path,
    rows: Iterable[Mapping[str, Any]],
    columns: Sequence[str] | None = None,
    *,
    public: bool = False,
) -> None:
    """Publish a table; see `csv_text`."""
    write_text(path, csv_text(rows, columns), public=public)


def read_csv(path: Path, columns: Collection[str], hint: str) -> list[dict[str, str]]:
    """Read the rows of a CSV table, and check its columns.

    Args:
        columns: the required columns.
        hint: what the user should do if it is damaged.

    Raises:
        StorageError: it cannot be read, or does not exist.
        BadDataError: a column is missing, or a row has too few or too many cells.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            rows = list(reader)
            header = reader.fieldnames or ()
    except OSError as error:
        raise StorageError.of(error, path, "read") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise _damaged("the table", str(error), path, hint) from error
    missing = [name for name in columns if name not in header]
    if missing:
        raise _damaged("the table", f"it has no column '{missing[0]}'", path, hint)
    for row_number, row in enumerate(rows, start=1):
        # DictReader stores surplus cells under the key None, and None for missing cells.
        if None in row or None in row.values():
            raise _damaged(
                "the table", f"row {row_number} has too few or too many cells", path, hint
            )
    return rows


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys, no spaces and ASCII only: the input of digests and signatures."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    ).encode("ascii")


def sha256(path: Path, start: int = 0) -> str:
    """Hex SHA-256 of a file from byte `start` to its end.

    Raises:
        StorageError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            file.seek(start)
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StorageError.of(error, path, "read") from error
