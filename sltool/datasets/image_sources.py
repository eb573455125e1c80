"""The files of a source of images: finding them, by a table too, and detecting copies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

from sltool.datasets import nifti_files
from sltool.datasets.base import Refused
from sltool.datasets.source_columns import (
    SplitName,
    composed,
    listed,
    split_of,
)
from sltool.datasets.table_files import EXCEL, KINDS
from sltool.errors import BadDataError, nearest
from sltool.files import sha256
from sltool.study.schema import SPLITS
from sltool.wording import plural

HELP = """\
a folder with a folder of images for each class, such as well/ and ill/, also below
              train/, val/ and test/; or a table (.csv, .xlsx) with a column for the file and one
              for the label, and optionally for patient, examination, split and site. Images:
              what Pillow reads, DICOM and NIfTI"""
TABLES = (".csv", ".tsv", *sorted(EXCEL))
DICOM = (".dcm", ".dicom", ".ima")
# Pillow passes these to other programs, or has no reader for them.
NOT_READ = frozenset({"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"})
# Folders that contain all images, whose names are no classes.
WRAPPERS = frozenset({"images", "image", "img", "imgs", "data", "dataset", "png", "jpg"})


@dataclass(frozen=True)
class Entry:
    """A file of the source, and what the source says about it; '' where it says nothing.

    Attributes:
        columns: the table's other columns, for `Scan.columns`.
    """

    path: Path
    record: str
    label: str
    split: str = ""
    patient: str = ""
    examination: str = ""
    site: str = ""
    columns: Mapping[str, str] = field(default_factory=dict, hash=False)


def record_of(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def kind_of(path: Path) -> str:
    """'picture', 'dicom' or 'nifti' by the file's name, and '' for any other file."""
    name = path.name.lower()
    if name.endswith(nifti_files.SUFFIXES):
        return "nifti"
    if path.suffix.lower() in DICOM or (not path.suffix and _is_dicom(path)):
        return "dicom"
    return "picture" if path.suffix.lower() in _pillow_suffixes() else ""


def _is_dicom(path: Path) -> bool:
    """Archives write files without a suffix; PS3.10 7.1: 128 bytes, then 'DICM'."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


@lru_cache(maxsize=1)
def _pillow_suffixes() -> frozenset[str]:
    from PIL import Image

    known = Image.registered_extensions()
    return frozenset(
        suffix for suffix, name in known.items() if name in Image.OPEN and name not in NOT_READ
    )


def files_of(source: Path) -> tuple[list[Path], list[str]]:
    """The files below a folder that may be images, sorted, and the suffixes of all others."""
    paths, others = [], []
    for path in sorted(source.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(source).parts)
        if not hidden and path.is_file():
            if kind_of(path):
                paths.append(path)
            else:
                others.append(path.suffix or path.name)
    return paths, others


def class_parts(path: Path, source: Path, splits: Mapping[str, SplitName]) -> list[str]:
    """The folders above a file, without split folders and folders that contain all images."""
    parts = list(path.relative_to(source).parts[:-1])
    named = [part for part in parts if not split_of(part, splits)]
    while named and named[0].lower() in WRAPPERS:
        del named[0]
    return named


def tables_of(source: Path) -> Iterator[Path]:
    return (path for path in sorted(source.iterdir()) if path.suffix.lower() in TABLES)


def table_path(source: Path, name: str) -> Path:
    """The table's path; raises `BadDataError` if it does not exist or lies outside the source."""
    if source.is_file():
        return source
    path = source / name
    if path.is_file() and path.resolve().is_relative_to(source.resolve()):
        return path
    names = [table.name for table in tables_of(source)]
    raise BadDataError(
        f"the table '{name}' is not in the source{nearest(name, names)}",
        where=source,
        expected=f"{KINDS}; the source has: {listed(names) or 'none'}",
        hint="correct dataset.table in study.yaml; null reads a folder for each class",
    )


class Finder:
    """Finds the files that a table names: by path, by file name, or by file name without suffix."""

    def __init__(self, source: Path) -> None:
        self.root = source if source.is_dir() else source.parent

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        found = defaultdict(list)
        for path in files_of(self.root)[0]:
            for name in {composed(path.name), composed(path.stem)}:
                found[name].append(path)
        return found

    def find(self, name: str) -> Path | None:
        """The file; None if no file matches, or several do."""
        name = name.replace("\\", "/")
        path = self.root / name
        if name and path.is_file() and path.resolve().is_relative_to(self.root.resolve()):
            return path if kind_of(path) else None
        found = self._named(name)
        return found[0] if len(found) == 1 else None

    def _named(self, name: str) -> list[Path]:
        return self._by_name.get(composed(name.rsplit("/", 1)[-1]), [])

    def reason(self, name: str) -> str:
        """Why `find` returned None."""
        if not name:
            return "the row names no file"
        if found := self._named(name.replace("\\", "/")):
            names = listed(record_of(path, self.root) for path in found)
            return f"{plural(len(found), 'image has', 'images have')} this name: {names}"
        return "there is no such image"


def without_copies(entries: list[Entry], refused: list[Refused], notes: list[str]) -> list[Entry]:
    """The entries without copies: of files with the same bytes, one in the split furthest from
    training is left, and none if their labels differ.

    A picture both in training and in the test would make the figures too good.
    """
    left_out: set[Path] = set()
    across = 0
    for copies in _copies(entries):
        chosen = max(copies, key=lambda entry: SPLITS.index(entry.split) if entry.split else 0)
        differ = len({entry.label for entry in copies}) > 1
        across += len({entry.split for entry in copies}) > 1
        for entry in copies:
            if differ or entry is not chosen:
                twin = next(copy for copy in copies if copy is not entry) if differ else chosen
                label = f", which has the label '{twin.label}'" if entry.label != twin.label else ""
                refused.append(Refused(entry.record, f"the same file as {twin.record}{label}"))
                left_out.add(entry.path)
    if across:
        notes.append(
            f"{plural(across, 'image is', 'images are')} in two of the source's splits, byte "
            "for byte: used once, in the split further from training"
        )
    return [entry for entry in entries if entry.path not in left_out]


def _copies(entries: list[Entry]) -> list[list[Entry]]:
    """The entries whose files are the same, byte for byte."""
    by_size = defaultdict(list)
    for entry in entries:
        by_size[entry.path.stat().st_size].append(entry)
    by_digest = defaultdict(list)
    for same in by_size.values():
        for entry in same if len(same) > 1 else []:
            by_digest[sha256(entry.path)].append(entry)
    return [same for same in by_digest.values() if len(same) > 1]
