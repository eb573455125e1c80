"""What a source looked like when it was read: its files' names, sizes and times of change.

It leads to patients by the files' names, so it is kept in private files alone, and travels in none.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sltool.files import PART, canonical_json

# A folder in which one of these lies was made by this tool.
MADE = frozenset({"study.yaml", "comparison.json"})
SHOWN = 3
# (size in bytes, time of change in ns); of what cannot be looked at, (-1, 0).
Look = tuple[int, int]
UNREADABLE: Look = (-1, 0)


@dataclass(frozen=True)
class Fingerprint:
    """The files of a source by their names in it; none for data that comes with the tool."""

    files: Mapping[str, Look]

    @property
    def digest(self) -> str:
        """Hex SHA-256."""
        return hashlib.sha256(self.to_json()).hexdigest()

    def to_json(self) -> bytes:
        """Canonical JSON, the same for the same files."""
        return canonical_json(self.files)

    @classmethod
    def from_json(cls, content: Mapping[str, list[int]]) -> Fingerprint:
        """The fingerprint of parsed JSON."""
        return cls({name: (size, time) for name, (size, time) in content.items()})

    def changes_since(self, before: Fingerprint) -> str:
        """'2 files added (a, b); 1 removed (c)'; '' where nothing changed. Names private files."""
        kinds = {
            "added": self.files.keys() - before.files.keys(),
            "removed": before.files.keys() - self.files.keys(),
            "changed": {
                name
                for name in self.files.keys() & before.files.keys()
                if self.files[name] != before.files[name]
            },
        }
        return "; ".join(_told(kind, names) for kind, names in kinds.items() if names)


def _told(kind: str, names: Collection[str]) -> str:
    shown = ", ".join(sorted(names)[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
    return f"{len(names)} file{'s' if len(names) > 1 else ''} {kind} ({shown})"


def fingerprint(source: Path | None, own: Collection[Path] = ()) -> Fingerprint:
    """Look at a source: a file, or a folder with all below it.

    Hidden files and folders are passed over, and so are folders of studies and comparisons.

    Args:
        own: what this tool writes itself into a source that is a study's folder too.
    """
    if source is None:
        return Fingerprint({})
    root = source.resolve()
    if not root.is_dir():
        return Fingerprint({root.name: _look(root)})
    skipped = {os.fspath(path.resolve()) for path in own}
    return Fingerprint(dict(_files(os.fspath(root), "", skipped, frozenset())))


def _look(entry: Path | os.DirEntry[str]) -> Look:
    try:
        found = entry.stat()
    except OSError:
        # A link to nothing, say. Whether it matters is the dataset's to say, when it reads it.
        return UNREADABLE
    return found.st_size, found.st_mtime_ns


def _files(
    folder: str, prefix: str, skipped: Collection[str], above: frozenset[tuple[int, int]]
) -> Iterator[tuple[str, Look]]:
    """Walk a folder; links are followed, but not into a folder that is being walked.

    Args:
        prefix: of the names: the folder's place in the source, with a slash behind it.
        above: device and inode of the folders that this one lies in.
    """
    try:
        here = Path(folder).stat()
        with os.scandir(folder) as found:
            entries = list(found)
    except OSError:
        yield prefix, UNREADABLE
        return
    identity = (here.st_dev, here.st_ino)
    if identity in above or (prefix and any(entry.name in MADE for entry in entries)):
        return
    for entry in entries:
        # What ends in .part is on its way to its name.
        if entry.name.startswith(".") or entry.name.endswith(PART) or entry.path in skipped:
            continue
        name = prefix + entry.name
        if entry.is_dir():
            yield from _files(entry.path, f"{name}/", skipped, above | {identity})
        else:
            yield name, _look(entry)
