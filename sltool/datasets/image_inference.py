"""Settings of a new study, inferred from a folder or a table of images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sltool.datasets.base import UnreadableSampleError
from sltool.datasets.dicom_files import size_of_dicom
from sltool.datasets.image_sources import (
    HELP,
    TABLES,
    Finder,
    class_parts,
    files_of,
    kind_of,
    table_path,
    tables_of,
)
from sltool.datasets.images import NO_IMAGE
from sltool.datasets.nifti_files import size_of_slices
from sltool.datasets.source_columns import (
    KNOWN_SPLITS,
    alike,
    find_header,
    find_people,
    in_order,
    listed,
    need_two,
    positive_note,
)
from sltool.datasets.table_files import SET_HEADER, TextTable, read_table, which_header
from sltool.errors import BadDataError

# Files that are inspected for a new study's size and channels.
INSPECTED_FILES = 30
USUAL_SIZES = (32, 64, 96, 128, 224)
SHOWN_ROWS = 20
MOST_CLASSES = 100
_HINT = (
    "give --source the folder above the class folders; or a table (--set dataset.table=NAME), "
    "which may say the label of each file"
)
# Settings, files to inspect, and notes.
Inferred = tuple[dict[str, Any], list[Path], list[str]]


def from_folders(source: Path, given: Mapping[str, Any]) -> Inferred:
    """The settings for class folders."""
    paths, _ = files_of(source)
    counts = _class_folders(source, paths, given)
    present = listed(sorted(path.name for path in source.iterdir()))
    expected = f"{HELP}; the source has: {present or 'nothing'}"
    need_two(list(counts), source, "folders", expected, _HINT)
    tables = [path.name for path in tables_of(source)]
    notes = (
        [
            f"the source has a table, too, which is not read: {listed(tables)} (--set "
            f"dataset.table={tables[0]} reads it)"
        ]
        if tables
        else []
    )
    return {"classes": _classes(counts)}, paths, [*_class_notes(counts, given), *notes]


def _classes(counts: Counter[str]) -> dict[str, list[str]]:
    return {name: [name] for name in in_order(counts)}


def _class_notes(counts: Counter[str], given: Mapping[str, Any]) -> list[str]:
    if given.get("classes"):
        return alike(counts)
    return [*alike(counts), *positive_note(in_order(counts), "dataset.classes")]


def _class_folders(source: Path, paths: Iterable[Path], given: Mapping[str, Any]) -> Counter[str]:
    """Class folder -> the number of its files."""
    splits = given.get("splits", KNOWN_SPLITS)
    found = (class_parts(path, source, splits) for path in paths)
    return Counter(parts[0] for parts in found if parts)


def from_table(source: Path, name: str, given: Mapping[str, Any]) -> Inferred:
    """The settings for a table of files and labels."""
    table = read_table(table_path(source, name))
    headers = dict(given.get("headers") or {})
    finder = Finder(source)
    file = headers.get("file") or _file_header(table, finder)
    if file is None:
        raise which_header(table, "file", "a column with the files' paths or names")
    label = headers.get("label") or find_header("label", table.columns)
    if label is None:
        raise which_header(table, "label", "a column with the class of each file")
    counts = Counter(filter(None, table.column(label, "dataset.headers.label")))
    place = f"column '{label}'"
    need_two(list(counts), table.path, place, "two classes or more", f"{SET_HEADER}label=HEADER")
    if len(counts) > MOST_CLASSES:
        raise BadDataError(
            f"{place} has {len(counts)} different labels",
            where=table.path or "",
            expected=f"a column with at most {MOST_CLASSES} classes",
            hint=f"give {SET_HEADER}label=HEADER",
        )
    names = table.column(file, "dataset.headers.file")
    step = max(1, len(names) // INSPECTED_FILES)
    paths = [path for path in map(finder.find, names[::step]) if path]
    people = find_people([name for name in table.columns if name not in (file, label)], headers)
    settings = {
        "table": name,
        "headers": {"file": file, "label": label, **people},
        "classes": _classes(counts),
    }
    return settings, paths, _class_notes(counts, given)


def _file_header(table: TextTable, finder: Finder) -> str | None:
    """The column whose first cells name files of the source."""
    usual = find_header("file", table.columns)
    headers = [*([usual] if usual else []), *table.columns]
    return next(
        (
            header
            for header in headers
            if any(finder.find(name) for name in table.columns[header][:SHOWN_ROWS] if name)
        ),
        usual,
    )


def table_of(source: Path, wanted: bool) -> str | None:
    """The name of the table with the files' labels; None where class folders give them.

    Args:
        wanted: use a table even if there are class folders.
    """
    if source.is_file():
        if source.suffix.lower() not in TABLES:
            raise BadDataError(
                "the source is neither a folder nor a table", where=source, expected=HELP
            )
        return source.name
    if not wanted and len(_class_folders(source, files_of(source)[0], {})) >= 2:
        return None
    tables = list(tables_of(source))
    if len(tables) > 1:
        raise BadDataError(
            f"the source has {len(tables)} tables: {listed(path.name for path in tables)}",
            where=source,
            expected="one that names the images, or a folder for each class",
            hint="give --set dataset.table=NAME",
        )
    return tables[0].name if tables else None


@dataclass(frozen=True)
class ImageProperties:
    """Properties of some of a source's images.

    Attributes:
        sizes: (width, height) of each, in pixels.
        colour: whether any has a colour.
        top: the highest value in pictures with more than 8 bits, or 0.
    """

    sizes: list[tuple[int, int]]
    colour: bool
    top: float

    def settings(self) -> dict[str, Any]:
        """Size, channels and window that suit these images."""
        if not self.sizes:
            return {}
        short = float(np.median([min(size) for size in self.sizes]))
        size = max([usual for usual in USUAL_SIZES if usual <= short] or USUAL_SIZES[:1])
        found: dict[str, Any] = {"size": size, "channels": 3 if self.colour else 1}
        if self.top:
            # A scanner's 10 or 12 bits in a 16-bit file would be nearly black.
            levels = 2 ** int(np.ceil(np.log2(self.top + 1)))
            found["window"] = [levels / 2, levels]
        return found

    def __str__(self) -> str:
        if not self.sizes:
            return "none could be read"
        low, high = min(self.sizes), max(self.sizes)
        sizes = "{} x {}".format(*low) + (" to {} x {}".format(*high) if high != low else "")
        depth = f", more than 8 bits (up to {self.top:g})" if self.top else ""
        return f"{sizes} pixels, {'colour' if self.colour else 'grey'}{depth}"


def inspect_images(paths: Sequence[Path]) -> ImageProperties:
    """Properties of some images, evenly spread; unreadable files are skipped."""
    sizes, colour, top = [], False, 0.0
    for path in paths[:: max(1, len(paths) // INSPECTED_FILES)]:
        kind = kind_of(path)
        try:
            if kind != "picture":
                sizes += [size_of_slices(path) if kind == "nifti" else size_of_dicom(path)]
                continue
            width, height, coloured, highest = _inspect_picture(path)
        except (*NO_IMAGE, UnreadableSampleError):
            continue
        sizes.append((width, height))
        colour, top = colour or coloured, max(top, highest)
    return ImageProperties(sizes, colour, top)


def _inspect_picture(path: Path) -> tuple[int, int, bool, float]:
    """Width, height, whether it has a colour, and the highest value if over 8 bits, else 0."""
    from PIL import Image

    with Image.open(path) as image:
        if image.mode.startswith(("I", "F")):
            return *image.size, False, max(0.0, float(np.asarray(image).max(initial=0)))
        colours = np.asarray(image.convert("RGB"), dtype=np.int16)
    # JPEG's rounding makes the channels of a grey picture differ slightly.
    return colours.shape[1], colours.shape[0], bool(np.ptp(colours, axis=2).max() > 16), 0.0
