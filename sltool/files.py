"""Files: private from their first byte, published whole or not at all, and read with a check.

What holds a person's data, or leads to it, is 0600 in folders that are 0700, whatever the umask.
That is the rule for every file; `public=True` makes the exception.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from sltool.errors import BadDataError, StorageError

Document = TypeVar("Document")

PART = ".part"
PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700
# To read, not to change: study.yaml says whose signatures count.
PUBLIC_FILE = 0o644
OTHERS = 0o077


def part_of(path: Path) -> Path:
    """The name under which a file is written before it is published."""
    return path.with_name(path.name + PART)


def private_folder(path: Path) -> Path:
    """Make the folder and those above it that are missing, each 0700; returns `path`.

    A folder that is there keeps its permissions: it may be one that the user has given.

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
    """Take from everybody but the owner what he may do with a file or folder of ours.

    A link, a pipe or a device is left alone. Where the file system has no permissions, or the file
    is another user's, the private folder around it is what keeps others out.
    """
    mode = path.lstat().st_mode
    if (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) and mode & OTHERS:
        try:
            path.chmod(stat.S_IMODE(mode) & ~OTHERS)
        except PermissionError:
            return


def open_in_place(path: Path, mode: str) -> IO[Any]:
    """`open` for a private file that grows in place; it and its folder are made if need be.

    Raises:
        OSError: the operating system refused.
    """
    private_folder(path.parent)
    file = open(path, mode, opener=_opener, encoding=None if "b" in mode else "utf-8")  # noqa: SIM115
    close_to_others(path)
    return file


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags, PRIVATE_FILE)


@contextmanager
def publish(path: Path, *, public: bool = False) -> Iterator[Path]:
    """Yield `NAME.part` to write to; on success flush, fsync, rename and fsync the folder.

    Args:
        path: the final name; its folder is made, 0700, if need be.
        public: nobody's data is in it: others may read it, if the umask lets them.

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
    """Rename a file into a private folder of the same disk, lastingly; links are not followed.

    Raises:
        StorageError: the operating system refused it; the file is where it was.
    """
    try:
        private_folder(target.parent)
        path.replace(target)
        close_to_others(target)
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


def copy(path: Path, target: Path) -> None:
    """Publish a private copy of a file."""
    with publish(target) as part:
        shutil.copyfile(path, part)


def write_text(path: Path, text: str, *, public: bool = False) -> None:
    """Publish a text file, UTF-8."""
    with publish(path, public=public) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, *, public: bool = False) -> None:
    """Publish a JSON document, indented for readers."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n", public=public)


def read_json(path: Path, kind: type[Document], what: str, hint: str) -> Document:
    """A JSON document of ours; that it is one is checked, since files get damaged and edited.

    Args:
        kind: its type: a `TypedDict` (keys that it does not name are let through), `dict[str, ...]`
            and so on; anything that pydantic can check.
        what: what the file is, for the message: 'the record of run X'.
        hint: what the user should do where it is damaged.

    Raises:
        StorageError: it cannot be read, or is not there.
        BadDataError: it is no JSON, or not of that type.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise StorageError.of(error, path, "read") from error
    return parse_json(text, kind, path, what, hint)


def parse_json(
    text: str | bytes, kind: type[Document], path: Path, what: str, hint: str
) -> Document:
    """As `read_json`, for a document that stands in the file `path`."""
    from pydantic import TypeAdapter, ValidationError

    try:
        document: Document = json.loads(text)
        # Checked and not converted: what the type does not name is kept.
        TypeAdapter(kind).validate_python(document, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        told = f"{place}: {first['msg']}" if place else first["msg"]
        raise _damaged(what, told, path, hint) from error
    except (ValueError, RecursionError) as error:
        raise _damaged(what, f"it is no JSON: {error}", path, hint) from error
    return document


def _damaged(what: str, told: str, path: Path, hint: str) -> BadDataError:
    return BadDataError(f"{what} is damaged: {told}", where=path, hint=hint)


def csv_text(rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    """A CSV table with a header line.

    Args:
        columns: their order; None: all keys in order of appearance. A key that a row lacks is an
            empty cell.
    """
    if columns is None:
        rows = list(rows)
        columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
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
    """The rows of a CSV table of ours.

    Args:
        columns: those that it must have.
        hint: what the user should do where it is damaged.

    Raises:
        StorageError: it cannot be read, or is not there.
        BadDataError: a column is missing, or a line has too few or too many cells.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            rows = list(reader)
            head = reader.fieldnames or ()
    except OSError as error:
        raise StorageError.of(error, path, "read") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise _damaged("the table", str(error), path, hint) from error
    missing = [name for name in columns if name not in head]
    if missing:
        raise _damaged("the table", f"it has no column '{missing[0]}'", path, hint)
    for number, row in enumerate(rows, start=1):
        # csv puts too many cells under None, and None into cells that are missing.
        if None in row or None in row.values():
            raise _damaged("the table", f"row {number} has other columns", path, hint)
    return rows


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys, no spaces and ASCII only: what digests and signatures cover."""
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
