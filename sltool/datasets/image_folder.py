"""Images without code: a folder for each class, or a table that says what each file is."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sltool.datasets import nifti_files
from sltool.datasets.base import Dataset, Refused, Scan, UnreadableSampleError, image_samples
from sltool.datasets.dicom_files import Frame, Frames, Headers, size_of_dicom
from sltool.datasets.images import NO_IMAGE, Decode, ImageFiles, decode_image, told_reason
from sltool.datasets.nifti_files import Slice, size_of_slices, slices_of
from sltool.datasets.source_columns import (
    KNOWN_SPLITS,
    ClassCodes,
    Classes,
    People,
    SplitName,
    alike,
    check_typed,
    counted,
    find_header,
    find_people,
    in_order,
    listed,
    need_two,
    patient_notes,
    split_of,
)
from sltool.datasets.table_files import EXCEL, KINDS, TextTable, read_table
from sltool.errors import BadDataError, nearest
from sltool.files import sha256
from sltool.registry import datasets
from sltool.study import SPLITS, Positive, Samples, Section

TABLES = (".csv", ".tsv", *sorted(EXCEL))
DICOM = (".dcm", ".dicom", ".ima")
# Pillow hands these to other programs, or has no reader for them.
NOT_READ = frozenset({"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"})
# Files that are looked at for a new study's size and channels.
LOOKED_AT = 30
USUAL_SIZES = (32, 64, 96, 128, 224)
SHOWN_ROWS = 20
MOST_CLASSES = 100
# Folders around all images, whose names say nothing.
WRAPPERS = frozenset({"images", "image", "img", "imgs", "data", "dataset", "png", "jpg"})
_SET = "--set dataset.headers."
_HINT = (
    "give --source the folder above the class folders; or a table (--set dataset.table=NAME), "
    "which may say the label of each file"
)
# Settings, files to look at, and notes.
Found = tuple[dict[str, Any], list[Path], list[str]]

HELP = """\
a folder with a folder of images for each class, such as well/ and ill/, also below
              train/, val/ and test/; or a table (.csv, .xlsx) with a column for the file and one
              for the label, and optionally for patient, examination, split and site. Images:
              what Pillow reads, DICOM and NIfTI"""


class ImageHeaders(People):
    """The table's headers."""

    file: str = Field(default="file", description="Header of the file's path, or its name.")
    label: str = Field(default="label", description="Header of the label.")


@dataclass(frozen=True)
class Entry:
    """A file of the source and what the source says of it; '' where it says nothing."""

    path: Path
    record: str
    label: str
    split: str = ""
    patient: str = ""
    examination: str = ""
    site: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture file that Pillow reads."""

    path: Path

    def load(self, decode: Decode) -> NDArray[np.uint8]:
        """(channels, height, width).

        Raises:
            UnreadableSampleError: it cannot be read.
        """
        try:
            return decode_image(self.path, decode)
        except NO_IMAGE as error:
            raise UnreadableSampleError(told_reason(error)) from error


@dataclass(frozen=True)
class Sample:
    """One image of an entry; its patient and examination may be known from its file alone."""

    entry: Entry
    record: str
    image: Picture | Frame | Slice
    code: int

    @property
    def patient(self) -> str:
        return self.entry.patient or (
            self.image.patient if isinstance(self.image, Frame) else self.entry.record
        )

    @property
    def examination(self) -> str:
        if self.entry.examination or isinstance(self.image, Picture):
            return self.entry.examination
        return self.image.examination if isinstance(self.image, Frame) else self.entry.record


@datasets.register("images")
class ImageFolder(Dataset):
    """Images of your own: a folder for each class, or a table of files and labels."""

    class Settings(Section):
        table: str | None = Field(
            default=None,
            description="The table's path in the source; null: the folders say the class. Where "
            "--source is itself a table, its name.",
        )
        headers: ImageHeaders = Field(
            default=ImageHeaders(), description="Of the table; without meaning for folders."
        )
        classes: Classes = Field(
            default={"negative": ("negative",), "positive": ("positive",)},
            min_length=2,
            description="Class -> its folders, or its labels in the table; the last of two is the "
            "positive one. To join two, write {ill: [ill, Ill]}.",
        )
        splits: dict[str, SplitName] = Field(
            default=dict(KNOWN_SPLITS),
            description="The source's name of a split (a folder, or a value in the table) -> "
            "train, validation or test. `split.official` keeps to them.",
        )
        size: int = Field(default=224, ge=8, description="Height and width in pixels.")
        pad: bool = Field(
            default=True, description="Keep the aspect ratio by padding, instead of stretching."
        )
        channels: Literal[1, 3] = Field(default=1, description="1 for grey, 3 for colour.")
        window: tuple[float, Positive] | None = Field(
            default=None,
            description="Centre and width of the grey values of 16-bit pictures, DICOM and NIfTI "
            "([40, 400] for soft tissue in CT). null: as a DICOM file says; of a picture all that "
            "16 bits hold; of a volume its full range.",
        )
        frames: Frames = Field(
            default="all",
            description="Of a volume, or a DICOM file with several pictures: all, or the middle.",
        )
        burned_in: bool = Field(
            default=False,
            description="Take DICOM files, too, that say that a name is burned into the picture.",
        )

    recipe: ClassVar[Mapping[str, Any]] = {
        "split": {"official": True},
        "model": {"name": "covid-cnn", "filters": [8, 32, 64, 128, 256]},
        "training": {"epochs": 50, "batch_size": 64, "schedule": "cosine"},
    }
    source_help = HELP

    settings: Settings

    @classmethod
    def adapt(
        cls, source: Path | None, given: Mapping[str, Any]
    ) -> tuple[dict[str, Any], list[str]]:
        check_typed(cls.Settings, given)
        source = cls.need_source(source)
        table = given.get("table") or _table_of(source, wanted="headers" in given)
        found = _from_table(source, table, given) if table else _from_folders(source, given)
        settings, paths, notes = found
        return {**settings, **_look(paths).settings()}, notes

    def samples(self) -> Samples:
        shape = (self.settings.channels, self.settings.size, self.settings.size)
        return image_samples(shape, tuple(self.settings.classes))

    def scan(self, source: Path | None) -> Scan:
        source = self.need_source(source)
        refused: list[Refused] = []
        notes: list[str] = []
        entries = list(self._taken(self._entries(source, refused, notes), refused))
        entries = _without_copies(entries, refused, notes)
        samples = list(self._opened(source, entries, refused, notes))
        official = [one.entry.split for one in samples]
        sites = [one.entry.site for one in samples]
        patients = [one.patient for one in samples]
        if not any(one.entry.patient or isinstance(one.image, Frame) for one in samples):
            notes.append(
                "this source names no patients: images of one patient may fall on both sides of a "
                "random split, so test figures may be too good"
            )
        return Scan(
            inputs=self._inputs(samples),
            labels=np.array([one.code for one in samples], dtype=np.int64),
            records=[one.record for one in samples],
            groups=patients,
            examinations=[one.examination for one in samples],
            official=official,
            sites=sites if any(sites) else None,
            refused=refused,
            notes=[*patient_notes(patients, official, sites), *notes],
            understood=self._understood(source, samples),
        )

    def _entries(self, source: Path, refused: list[Refused], notes: list[str]) -> Iterator[Entry]:
        """What the source says of each file, in its own words."""
        if self.settings.table is not None:
            table = read_table(_table_path(source, self.settings.table))
            yield from self._rows(source, table, refused)
            return
        if not source.is_dir():
            raise BadDataError("the source is no folder", where=source, expected=HELP)
        paths, others = _files(source)
        known = ClassCodes(self.settings.classes, "dataset.classes")
        for path in paths:
            parts = path.relative_to(source).parts[:-1]
            split = next((part for part in parts if split_of(part, self.settings.splits)), "")
            named = _class_parts(path, source, self.settings.splits)
            label = next((part for part in parts if part in known), (named or [""])[0])
            yield Entry(path, _record(path, source), label, split)
        if others:
            notes.append(f"files that are no images were passed over: {counted(others)}")

    def _rows(self, source: Path, table: TextTable, refused: list[Refused]) -> Iterator[Entry]:
        headers = self.settings.headers
        refused += table.refused
        keys = {role: header for role, header in headers.model_dump().items() if header}
        columns = {role: table.column(keys[role], f"dataset.headers.{role}") for role in keys}
        finder = _Finder(source)
        seen: dict[Path, str] = {}
        for number, row in enumerate(table.rows):
            said = {role: column[number] for role, column in columns.items()}
            name = said.pop("file")
            path = finder.find(name)
            if path is None:
                refused.append(Refused(f"{row}: {name}", finder.reason(name)))
            elif (before := seen.setdefault(path, row)) != row:
                refused.append(Refused(f"{row}: {name}", f"{before} names the same file"))
            else:
                yield Entry(path, _record(path, finder.root), **said)

    def _taken(self, entries: Iterable[Entry], refused: list[Refused]) -> Iterator[Entry]:
        """The entries of a known class and split; the split by our name."""
        codes = ClassCodes(self.settings.classes, "dataset.classes")
        folders = self.settings.table is None
        for entry in entries:
            split = split_of(entry.split, self.settings.splits)
            if entry.label not in codes:
                loose = folders and not entry.label
                reason = "it lies in no class folder" if loose else codes.unknown(entry.label)
                refused.append(Refused(entry.record, reason))
            elif split is None:
                near = nearest(entry.split, self.settings.splits)
                reason = f"its split '{entry.split}' is none of dataset.splits{near}"
                refused.append(Refused(entry.record, reason))
            else:
                yield replace(entry, split=split)

    def _opened(
        self, source: Path, entries: list[Entry], refused: list[Refused], notes: list[str]
    ) -> Iterator[Sample]:
        """The images of each file."""
        codes = ClassCodes(self.settings.classes, "dataset.classes")
        root = source if source.is_dir() else source.parent
        headers: Headers | None = None
        for entry in entries:
            code, kind = codes[entry.label], _kind(entry.path)
            if kind == "picture":
                yield Sample(entry, entry.record, Picture(entry.path), code)
                continue
            images: Sequence[Frame | Slice]
            if kind == "dicom":
                headers = headers or Headers(root, self.settings.frames, self.settings.burned_in)
                images = headers.frames(entry.path)
            else:
                images, reason = slices_of(entry.path, self.settings.frames)
                refused += [Refused(entry.record, reason)] if reason else []
            for image in images:
                yield Sample(entry, f"{entry.record}#{image.index + 1}", image, code)
        if headers:
            refused += headers.refused
            notes += headers.notes()

    def _inputs(self, samples: list[Sample]) -> Any:
        options = self.settings
        decode = Decode(options.size, options.size, options.channels, options.pad, options.window)
        images = [one.image for one in samples]
        pictures = [image.path for image in images if isinstance(image, Picture)]
        if len(pictures) == len(images):
            return ImageFiles(pictures, decode)
        return lambda number: images[number].load(decode)

    def _understood(self, source: Path, samples: list[Sample]) -> list[str]:
        """What this source was taken for."""
        settings = self.settings
        place = (
            f"the table {settings.table}: file from '{settings.headers.file}', label from "
            f"'{settings.headers.label}'"
            if settings.table
            else "a folder for each class"
        )
        people = settings.headers.model_dump(include=set(People.model_fields))
        if settings.table:
            place += "".join(f", {role} from '{name}'" for role, name in people.items() if name)
        classes = "; ".join(
            f"{name} = {', '.join(labels)}" for name, labels in settings.classes.items()
        )
        looked = _look([one.entry.path for one in samples])
        shape = f"{settings.size} x {settings.size} pixels, {settings.channels} channel"
        lines = [
            f"source: {place}",
            f"classes: {classes}",
            f"images: {looked}; each becomes {shape}{'s' if settings.channels > 1 else ''}",
        ]
        splits = [one.entry.split for one in samples if one.entry.split]
        return [*lines, f"splits of the source: {counted(splits)}"] if splits else lines


def _record(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _kind(path: Path) -> str:
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


def _files(source: Path) -> tuple[list[Path], list[str]]:
    """The files below a folder that may be images, sorted, and the suffixes of all others."""
    paths, others = [], []
    for path in sorted(source.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(source).parts)
        if not hidden and path.is_file():
            if _kind(path):
                paths.append(path)
            else:
                others.append(path.suffix or path.name)
    return paths, others


def _class_parts(path: Path, source: Path, splits: Mapping[str, SplitName]) -> list[str]:
    """The folders that a file lies in, but for those of a split and those that hold all images."""
    parts = list(path.relative_to(source).parts[:-1])
    named = [part for part in parts if not split_of(part, splits)]
    while named and named[0].lower() in WRAPPERS:
        del named[0]
    return named


def _from_folders(source: Path, given: Mapping[str, Any]) -> Found:
    """The settings for class folders."""
    paths, _ = _files(source)
    counts = _class_folders(source, paths, given)
    there = listed(sorted(path.name for path in source.iterdir()))
    need_two(list(counts), source, "folders", f"{HELP}; there is: {there or 'nothing'}", _HINT)
    tables = [path.name for path in _tables(source)]
    notes = (
        [
            f"the source has a table, too, which is not read: {listed(tables)} (--set "
            f"dataset.table={tables[0]} reads it)"
        ]
        if tables
        else []
    )
    return {"classes": {name: [name] for name in in_order(counts)}}, paths, [*alike(counts), *notes]


def _class_folders(source: Path, paths: Iterable[Path], given: Mapping[str, Any]) -> Counter[str]:
    """Class folder -> its files."""
    splits = given.get("splits", KNOWN_SPLITS)
    found = (_class_parts(path, source, splits) for path in paths)
    return Counter(parts[0] for parts in found if parts)


def _from_table(source: Path, name: str, given: Mapping[str, Any]) -> Found:
    """The settings for a table of files and labels."""
    table = read_table(_table_path(source, name))
    headers = dict(given.get("headers") or {})
    finder = _Finder(source)
    file = headers.get("file") or _file_header(table, finder)
    if file is None:
        raise _which_header(table, "file", "a column with the files' paths or names")
    label = headers.get("label") or find_header("label", table.columns)
    if label is None:
        raise _which_header(table, "label", "a column with the class of each file")
    counts = Counter(filter(None, table.column(label, "dataset.headers.label")))
    place = f"column '{label}'"
    need_two(list(counts), table.path, place, "two classes or more", f"{_SET}label=HEADER")
    if len(counts) > MOST_CLASSES:
        raise BadDataError(
            f"{place} has {len(counts)} different labels",
            where=table.path or "",
            expected=f"a column with at most {MOST_CLASSES} classes",
            hint=f"give {_SET}label=HEADER",
        )
    names = table.column(file, "dataset.headers.file")
    step = max(1, len(names) // LOOKED_AT)
    paths = [path for path in map(finder.find, names[::step]) if path]
    people = find_people([one for one in table.columns if one not in (file, label)], headers)
    settings = {
        "table": name,
        "headers": {"file": file, "label": label, **people},
        "classes": {name: [name] for name in in_order(counts)},
    }
    return settings, paths, alike(counts)


def _which_header(table: TextTable, role: str, expected: str) -> BadDataError:
    return BadDataError(
        f"which column of the table is the {role}?",
        where=table.path or "",
        expected=f"{expected}; there are: {', '.join(table.columns)}",
        hint=f"give {_SET}{role}=HEADER",
    )


def _file_header(table: TextTable, finder: _Finder) -> str | None:
    """The column whose first texts are files of the source."""
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


def _table_of(source: Path, wanted: bool) -> str | None:
    """The name of the table that says what the files are; None where folders do.

    Args:
        wanted: a table, even beside class folders.
    """
    if source.is_file():
        if source.suffix.lower() not in TABLES:
            raise BadDataError(
                "the source is neither a folder nor a table", where=source, expected=HELP
            )
        return source.name
    if not wanted and len(_class_folders(source, _files(source)[0], {})) >= 2:
        return None
    tables = list(_tables(source))
    if len(tables) > 1:
        raise BadDataError(
            f"the source has {len(tables)} tables: {listed(path.name for path in tables)}",
            where=source,
            expected="one that names the images, or a folder for each class",
            hint="give --set dataset.table=NAME",
        )
    return tables[0].name if tables else None


def _tables(source: Path) -> Iterator[Path]:
    return (path for path in sorted(source.iterdir()) if path.suffix.lower() in TABLES)


def _table_path(source: Path, name: str) -> Path:
    """The table in the source; raises `BadDataError` where it is not, or is outside."""
    if source.is_file():
        return source
    path = source / name
    if path.is_file() and path.resolve().is_relative_to(source.resolve()):
        return path
    names = [table.name for table in _tables(source)]
    raise BadDataError(
        f"the table '{name}' is not in the source{nearest(name, names)}",
        where=source,
        expected=f"{KINDS}; there is: {listed(names) or 'none'}",
        hint="correct dataset.table in study.yaml; null reads a folder for each class",
    )


class _Finder:
    """Finds the files that a table names: by their path, by their name, or without the suffix."""

    def __init__(self, source: Path) -> None:
        self.root = source if source.is_dir() else source.parent

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        found = defaultdict(list)
        for path in _files(self.root)[0]:
            found[path.name].append(path)
            found[path.stem].append(path)
        return found

    def find(self, name: str) -> Path | None:
        """The file; None where there is none, or several."""
        name = name.replace("\\", "/")
        path = self.root / name
        if name and path.is_file() and path.resolve().is_relative_to(self.root.resolve()):
            return path if _kind(path) else None
        found = self._by_name.get(name.rsplit("/", 1)[-1], [])
        return found[0] if len(found) == 1 else None

    def reason(self, name: str) -> str:
        """Why `find` has found none."""
        if not name:
            return "the row names no file"
        if found := self._by_name.get(name.replace("\\", "/").rsplit("/", 1)[-1], []):
            names = listed(_record(path, self.root) for path in found)
            return f"{len(found)} images are called so: {names}"
        return "there is no such image"


def _without_copies(entries: list[Entry], refused: list[Refused], notes: list[str]) -> list[Entry]:
    """Of files with the same bytes the one that is furthest from training; none, if labels differ.

    A picture in training and in the test would make the figures too good.
    """
    left_out: set[Path] = set()
    across = 0
    for copies in _copies(entries):
        kept = max(copies, key=lambda one: SPLITS.index(one.split) if one.split else 0)
        differ = len({one.label for one in copies}) > 1
        across += len({one.split for one in copies}) > 1
        for entry in copies:
            if differ or entry is not kept:
                twin = next(one for one in copies if one is not entry) if differ else kept
                said = f", which has the label '{twin.label}'" if entry.label != twin.label else ""
                refused.append(Refused(entry.record, f"the same file as {twin.record}{said}"))
                left_out.add(entry.path)
    if across:
        notes.append(
            f"{across} image{'s are' if across > 1 else ' is'} in two of the source's splits, byte "
            "for byte: taken once, in the one further from training"
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


@dataclass(frozen=True)
class Looked:
    """What some of a source's images are: (width, height) of each, colour, the highest value."""

    sizes: list[tuple[int, int]]
    colour: bool
    top: float

    def settings(self) -> dict[str, Any]:
        """Size, channels and window that suit these images."""
        if not self.sizes:
            return {}
        short = float(np.median([min(size) for size in self.sizes]))
        size = max([one for one in USUAL_SIZES if one <= short] or USUAL_SIZES[:1])
        found: dict[str, Any] = {"size": size, "channels": 3 if self.colour else 1}
        if self.top:
            # A scanner's 10 or 12 bits in a file of 16 would be nearly black.
            levels = 2 ** int(np.ceil(np.log2(self.top + 1)))
            found["window"] = [levels / 2, levels]
        return found

    def __str__(self) -> str:
        if not self.sizes:
            return "none could be looked at"
        low, high = min(self.sizes), max(self.sizes)
        sizes = "{} x {}".format(*low) + (" to {} x {}".format(*high) if high != low else "")
        depth = f", more than 8 bits (up to {self.top:g})" if self.top else ""
        return f"{sizes} pixels, {'colour' if self.colour else 'grey'}{depth}"


def _look(paths: Sequence[Path]) -> Looked:
    """Look at some images, evenly spread; those that cannot be read are passed over."""
    sizes, colour, top = [], False, 0.0
    for path in paths[:: max(1, len(paths) // LOOKED_AT)]:
        kind = _kind(path)
        try:
            if kind != "picture":
                sizes += [size_of_slices(path) if kind == "nifti" else size_of_dicom(path)]
                continue
            width, height, coloured, highest = _look_at_picture(path)
        except (*NO_IMAGE, UnreadableSampleError):
            continue
        sizes.append((width, height))
        colour, top = colour or coloured, max(top, highest)
    return Looked(sizes, colour, top)


def _look_at_picture(path: Path) -> tuple[int, int, bool, float]:
    """Width, height, whether it has a colour, and the highest value of more than 8 bits, or 0."""
    from PIL import Image

    with Image.open(path) as image:
        if image.mode.startswith(("I", "F")):
            return *image.size, False, max(0.0, float(np.asarray(image).max(initial=0)))
        colours = np.asarray(image.convert("RGB"), dtype=np.int16)
    # JPEG's rounding makes a grey picture differ by a little between its channels.
    return colours.shape[1], colours.shape[0], bool(np.ptp(colours, axis=2).max() > 16), 0.0
