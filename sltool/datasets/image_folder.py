"""Images of any source: a folder for each class, or a table with the label of each file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sltool.datasets.base import (
    IMAGE_PROTECTION,
    IMAGE_RECIPE,
    Dataset,
    Refused,
    Scan,
    UnreadableSampleError,
    image_samples,
    protected,
)
from sltool.datasets.dicom_files import Frame, Frames, Headers
from sltool.datasets.image_inference import from_folders, from_table, inspect_images, table_of
from sltool.datasets.image_sources import (
    HELP,
    Entry,
    Finder,
    class_parts,
    files_of,
    kind_of,
    record_of,
    table_path,
    without_copies,
)
from sltool.datasets.images import NO_IMAGE, Decode, ImageFiles, decode_image, unreadable_reason
from sltool.datasets.nifti_files import Slice, slices_of
from sltool.datasets.source_columns import (
    KNOWN_SPLITS,
    ClassCodes,
    Classes,
    People,
    SplitName,
    by_name,
    check_typed,
    counted,
    other_columns,
    patient_notes,
    split_of,
)
from sltool.datasets.table_files import TextTable, read_table
from sltool.errors import BadDataError, nearest
from sltool.registry import datasets
from sltool.study.schema import Positive, Samples, Section
from sltool.wording import plural


class ImageHeaders(People):
    """The table's headers."""

    file: str = Field(default="file", description="Header of the file's path, or its name.")
    label: str = Field(default="label", description="Header of the label.")


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
            raise UnreadableSampleError(unreadable_reason(error)) from error


@dataclass(frozen=True)
class Sample:
    """An image of an entry; its patient and examination may come from the file itself."""

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
    def columns(self) -> dict[str, str]:
        """What the samples can be divided by, beside the site."""
        return {
            **(self.image.columns if isinstance(self.image, Frame) else {}),
            **self.entry.columns,
        }

    @property
    def examination(self) -> str:
        if self.entry.examination or isinstance(self.image, Picture):
            return self.entry.examination
        return self.image.examination if isinstance(self.image, Frame) else self.entry.record


BEST: Mapping[str, Any] = {"split": {"official": True}, **IMAGE_RECIPE}


@datasets.register("images")
class ImageFolder(Dataset):
    """Images of your own: a folder for each class, or a table of files and labels."""

    class Settings(Section):
        table: str | None = Field(
            default=None,
            description="The table's path in the source; null: the folders are the classes. If "
            "--source is itself a table, its file name.",
        )
        headers: ImageHeaders = Field(
            default=ImageHeaders(), description="The table's headers; not used for folders."
        )
        classes: Classes = Field(
            default={"negative": ("negative",), "positive": ("positive",)},
            min_length=2,
            description="Class -> its folders, or its labels in the table; the last of two is the "
            "positive one. To merge two, write {ill: [ill, Ill]}.",
        )
        splits: dict[str, SplitName] = Field(
            default=dict(KNOWN_SPLITS),
            description="The source's name of a split (a folder, or a value in the table) -> "
            "train, validation or test. `split.official` uses them.",
        )
        size: int = Field(default=224, ge=8, description="Height and width in pixels.")
        pad: bool = Field(
            default=True, description="Keep the aspect ratio by padding, instead of stretching."
        )
        channels: Literal[1, 3] = Field(default=1, description="1 for grey, 3 for colour.")
        window: tuple[float, Positive] | None = Field(
            default=None,
            description="Centre and width of the grey values of 16-bit pictures, DICOM and NIfTI "
            "([40, 400] for soft tissue in CT). null: for DICOM, as the file says; for a picture, "
            "the full 16-bit range; for a volume, its own full range.",
        )
        frames: Frames = Field(
            default="all",
            description="Which slices of a volume or pictures of a DICOM file: all, or the middle.",
        )
        burned_in: bool = Field(
            default=False,
            description="Accept DICOM files that say that a name is burned into the picture.",
        )

    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "best": BEST,
        "private": protected(BEST, IMAGE_PROTECTION),
    }
    source_help = HELP

    settings: Settings

    @classmethod
    def infer_settings(
        cls, source: Path | None, given: Mapping[str, Any]
    ) -> tuple[dict[str, Any], list[str]]:
        check_typed(cls.Settings, given)
        source = cls.need_source(source)
        table = given.get("table") or table_of(source, wanted="headers" in given)
        found = from_table(source, table, given) if table else from_folders(source, given)
        settings, paths, notes = found
        return {**settings, **inspect_images(paths).settings()}, notes

    def samples(self) -> Samples:
        shape = (self.settings.channels, self.settings.size, self.settings.size)
        return image_samples(shape, tuple(self.settings.classes))

    def column_names(self) -> list[str]:
        headers = self.settings.headers.model_dump().values()
        return list(filter(None, headers)) if self.settings.table is not None else []

    def scan(self, source: Path | None) -> Scan:
        source = self.need_source(source)
        refused: list[Refused] = []
        notes: list[str] = []
        entries = list(self._usable(self._entries(source, refused, notes), refused))
        entries = without_copies(entries, refused, notes)
        samples = list(self._images(source, entries, refused, notes))
        official = [sample.entry.split for sample in samples]
        sites = [sample.entry.site for sample in samples]
        patients = [sample.patient for sample in samples]
        if not any(sample.entry.patient or isinstance(sample.image, Frame) for sample in samples):
            notes.append(
                "this source names no patients: images of one patient may fall on both sides of a "
                "random split, so test figures may be too good"
            )
        return Scan(
            inputs=self._inputs(samples),
            labels=np.array([sample.code for sample in samples], dtype=np.int64),
            records=[sample.record for sample in samples],
            groups=patients,
            examinations=[sample.examination for sample in samples],
            official=official,
            sites=sites if any(sites) else None,
            columns=by_name([sample.columns for sample in samples]),
            refused=refused,
            notes=[*patient_notes(patients, official, sites), *notes],
            understood=self._understood(source, samples),
        )

    def cases(self, source: Path | None) -> Scan:
        """All images of the source, or those that a table in it names; labels are not read."""
        source = self.need_source(source)
        refused: list[Refused] = []
        notes: list[str] = []
        # The images of every class are found alike.
        label = next(labels[0] for labels in self.settings.classes.values())
        entries = [replace(entry, label=label) for entry in self._case_entries(source, refused)]
        samples = list(self._images(source, entries, refused, notes))
        return Scan(
            inputs=self._inputs(samples),
            labels=np.zeros(len(samples), np.int64),
            records=[sample.record for sample in samples],
            groups=[sample.patient for sample in samples],
            examinations=[sample.examination for sample in samples],
            refused=refused,
            notes=notes,
        )

    def _case_entries(self, source: Path, refused: list[Refused]) -> Iterator[Entry]:
        table = self.settings.table
        if table is not None and (source.is_file() or (source / table).is_file()):
            needed = [self.settings.headers.file]
            rows = read_table(table_path(source, table)).renamed(self.local_columns, needed)
            rows.need(needed)
            yield from self._rows(source, rows, refused, ("file", "patient", "examination"))
        elif source.is_dir():
            for path in files_of(source)[0]:
                yield Entry(path, record_of(path, source), "")
        else:
            yield Entry(source, source.name, "")

    def _entries(self, source: Path, refused: list[Refused], notes: list[str]) -> Iterator[Entry]:
        """The files with their label, split and ids, as the source spells them."""
        if self.settings.table is not None:
            table = read_table(table_path(source, self.settings.table))
            table = table.renamed(self.local_columns)
            table.need(self.column_names())
            yield from self._rows(source, table, refused)
            return
        if not source.is_dir():
            raise BadDataError("the source is not a folder", where=source, expected=HELP)
        paths, others = files_of(source)
        known = ClassCodes(self.settings.classes, "dataset.classes")
        for path in paths:
            parts = path.relative_to(source).parts[:-1]
            split = next((part for part in parts if split_of(part, self.settings.splits)), "")
            named = class_parts(path, source, self.settings.splits)
            label = next((part for part in parts if part in known), (named or [""])[0])
            yield Entry(path, record_of(path, source), label, split)
        if others:
            notes.append(f"files that are not images were skipped: {counted(others)}")

    def _rows(
        self,
        source: Path,
        table: TextTable,
        refused: list[Refused],
        roles: Sequence[str] = tuple(ImageHeaders.model_fields),
    ) -> Iterator[Entry]:
        headers = self.settings.headers.model_dump(include=set(roles))
        refused += table.refused
        cases = "label" not in roles
        keys = {
            role: header
            for role, header in headers.items()
            # Cases may come without the names of their patients.
            if header and (role == "file" or not cases or header in table.columns)
        }
        columns = {role: table.column(keys[role], f"dataset.headers.{role}") for role in keys}
        others = other_columns(table.columns, keys)
        finder = Finder(source)
        seen: dict[Path, str] = {}
        for index, row in enumerate(table.rows):
            cells = {role: column[index] for role, column in columns.items()}
            name = cells.pop("file")
            path = finder.find(name)
            if path is None:
                refused.append(Refused(f"{row}: {name}", finder.reason(name)))
            elif (earlier := seen.setdefault(path, row)) != row:
                refused.append(Refused(f"{row}: {name}", f"{earlier} names the same file"))
            else:
                beside = {name: column[index] for name, column in others.items()}
                cells = {"label": "", **cells}
                yield Entry(path, record_of(path, finder.root), **cells, columns=beside)

    def _usable(self, entries: Iterable[Entry], refused: list[Refused]) -> Iterator[Entry]:
        """The entries of a known class and split, with the study's name of the split."""
        codes = ClassCodes(self.settings.classes, "dataset.classes")
        folders = self.settings.table is None
        for entry in entries:
            split = split_of(entry.split, self.settings.splits)
            if entry.label not in codes:
                outside = folders and not entry.label
                reason = "it is not in a class folder" if outside else codes.unknown(entry.label)
                refused.append(Refused(entry.record, reason))
            elif split is None:
                near = nearest(entry.split, self.settings.splits)
                reason = f"its split '{entry.split}' is none of dataset.splits{near}"
                refused.append(Refused(entry.record, reason))
            else:
                yield replace(entry, split=split)

    def _images(
        self, source: Path, entries: list[Entry], refused: list[Refused], notes: list[str]
    ) -> Iterator[Sample]:
        """The images of each file."""
        codes = ClassCodes(self.settings.classes, "dataset.classes")
        root = source if source.is_dir() else source.parent
        headers: Headers | None = None
        for entry in entries:
            code, kind = codes[entry.label], kind_of(entry.path)
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
        images = [sample.image for sample in samples]
        pictures = [image.path for image in images if isinstance(image, Picture)]
        if len(pictures) == len(images):
            return ImageFiles(pictures, decode)
        return lambda index: images[index].load(decode)

    def _understood(self, source: Path, samples: list[Sample]) -> list[str]:
        """How this source was read, a line for each fact."""
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
        properties = inspect_images([sample.entry.path for sample in samples])
        shape = f"{settings.size} x {settings.size} pixels, "
        shape += plural(settings.channels, "channel")
        lines = [
            f"source: {place}",
            f"classes: {classes}",
            f"images: {properties}; each becomes {shape}",
        ]
        splits = [sample.entry.split for sample in samples if sample.entry.split]
        return [*lines, f"splits of the source: {counted(splits)}"] if splits else lines
