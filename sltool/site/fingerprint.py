"""The state of a source when it was read: its files' names, sizes and modification times.

File names may identify patients, so a fingerprint is stored in private files only and never leaves
the site.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sltool.files import PART, canonical_json

# A folder that contains one of these files was made by this tool.
OWN_FILES = frozenset({"study.yaml", "comparison.json"})
SHOWN = 3
# (size in bytes, modification time in ns); (-1, 0) if the file cannot be examined.
FileState = tuple[int, int]
UNREADABLE: FileState = (-1, 0)


@dataclass(frozen=True)
class Fingerprint:
    """The files of a source by their relative paths; empty for data that comes with the tool."""

    files: Mapping[str, FileState]

    @property
    def digest(self) -> str:
        """Hex SHA-256."""
        return hashlib.sha256(self.to_json()).hexdigest()

    def to_json(self) -> bytes:
        """Canonical JSON: the same files give the same bytes."""
        return canonical_json(self.files)

    @classmethod
    def from_json(cls, content: Mapping[str, list[int]]) -> Fingerprint:
        """The fingerprint stored in parsed JSON."""
        return cls({name: (size, time) for name, (size, time) in content.items()})

    def changes_since(self, before: Fingerprint) -> str:
        """'2 files added (a, b); 1 file removed (c)', or ''. The text names private files."""
        kinds = {
            "added": self.files.keys() - before.files.keys(),
            "removed": before.files.keys() - self.files.keys(),
            "changed": {
                name
                for name in self.files.keys() & before.files.keys()
                if self.files[name] != before.files[name]
            },
        }
        return "; ".join(_describe(kind, names) for kind, names in kinds.items() if names)


def _describe(kind: str, names: Collection[str]) -> str:
    shown = ", ".join(sorted(names)[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
    return f"{len(names)} file{'s' if len(names) > 1 else ''} {kind} ({shown})"


def fingerprint(source: Path | None, own: Collection[Path] = ()) -> Fingerprint:
    """The fingerprint of a source: a file, or a folder with all files below it.

    Hidden files and folders and the folders of studies and comparisons are skipped.

    Args:
        own: paths that this tool writes, to be skipped if the source is also a study's folder.
    """
    if source is None:
        return Fingerprint({})
    root = source.resolve()
    if not root.is_dir():
        return Fingerprint({root.name: _state(root)})
    skipped = {os.fspath(path.resolve()) for path in own}
    return Fingerprint(dict(_files(os.fspath(root), "", skipped, frozenset())))


def _state(entry: Path | os.DirEntry[str]) -> FileState:
    try:
        status = entry.stat()
    except OSError:
        # A dangling link, for example. The dataset decides whether it needs the file.
        return UNREADABLE
    return status.st_size, status.st_mtime_ns


def _files(
    folder: str, prefix: str, skipped: Collection[str], above: frozenset[tuple[int, int]]
) -> Iterator[tuple[str, FileState]]:
    """Walk a folder; links are followed, except to a folder that is already being walked.

    Args:
        prefix: the folder's path within the source, with a trailing slash.
        above: device and inode of all parent folders.
    """
    try:
        status = Path(folder).stat()
        with os.scandir(folder) as scanned:
            entries = list(scanned)
    except OSError:
        yield prefix, UNREADABLE
        return
    identity = (status.st_dev, status.st_ino)
    # Some network drives number no files: there all folders would be the same one.
    walked = bool(status.st_ino) and identity in above
    if walked or (prefix and any(entry.name in OWN_FILES for entry in entries)):
        return
    for entry in entries:
        # Files that end in .part are incomplete: they are renamed when they are finished.
        if entry.name.startswith(".") or entry.name.endswith(PART) or entry.path in skipped:
            continue
        name = prefix + entry.name
        if entry.is_dir():
            yield from _files(entry.path, f"{name}/", skipped, above | {identity})
        else:
            yield name, _state(entry)
