"""Chest CT slices, a folder for each class (the paper's COVID-CT case)."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from sltool.datasets.base import (
    IMAGE_PROTECTION,
    IMAGE_TRAINING,
    Dataset,
    Refused,
    Scan,
    image_cases,
    image_samples,
    protected,
)
from sltool.datasets.images import Decode, ImageFiles, image_files
from sltool.datasets.source_columns import plain_name
from sltool.errors import BadDataError, StorageError
from sltool.registry import datasets
from sltool.study.schema import Samples, Section
from sltool.wording import plural

# Class -> folder, in each public set. The last of two classes is the positive one.
LAYOUTS: dict[str, dict[str, str]] = {
    "curated": {"non-COVID": "1NonCOVID", "COVID": "2COVID", "CAP": "3CAP"},
    "UCSD": {"non-COVID": "CT_NonCOVID", "COVID": "CT_COVID"},
    "Sao Paulo": {"non-COVID": "non-COVID", "COVID": "COVID"},
}
# UCSD's lists of files -> their splits.
SPLIT_LISTS = {"train": "train", "val": "validation", "test": "test"}
SPLIT_FOLDERS = {"non-COVID": "NonCOVID", "COVID": "COVID"}
# Headers of the tables that name the patient of a file, without case and punctuation.
FILE_HEADERS = frozenset({"filename", "imagename", "image", "file"})
PATIENT_HEADERS = frozenset({"patientid", "patient"})

HELP = """\
one of three public sets of CT slices, each class in its own folder:
              COVID/ non-COVID/                     Sao Paulo
                https://www.kaggle.com/datasets/plameneduardo/sarscov2-ctscan-dataset
              CT_COVID/ CT_NonCOVID/ Data-split/    UCSD (unpack its two archives)
                https://github.com/UCSD-AI4H/COVID-CT
              1NonCOVID/ 2COVID/ 3CAP/ meta_data_*.csv    the large curated set
                https://www.kaggle.com/datasets/maedemaftouni/large-covid19-ct-slice-dataset"""

CASES = "a folder of slices, or one with a folder for each class"

BEST: Mapping[str, Any] = {
    "split": {"official": True},
    "model": {"name": "covid-cnn", "filters": [16, 32, 64, 128, 256]},
    "encoding": {"views": 20},
    "training": IMAGE_TRAINING,
}


@datasets.register("covid-ct")
class CovidCT(Dataset):
    """Chest CT slices, COVID or not: the layouts of Sao Paulo, UCSD and the large curated set."""

    class Settings(Section):
        size: int = Field(default=64, ge=8, description="Height and width in pixels.")
        pad: bool = Field(
            default=False, description="Keep the aspect ratio by padding, instead of stretching."
        )
        classes: tuple[str, ...] = Field(
            default=("non-COVID", "COVID"),
            min_length=2,
            description="The last of two is the positive one. The large curated set has CAP too; "
            "if it is left out here, its slices are not read.",
        )
        folders: dict[str, str] = Field(
            default={},
            description="Class -> folder in the source, where the folders have other names "
            "than in the public sets.",
        )

    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "best": BEST,
        "private": protected(BEST, IMAGE_PROTECTION),
        "paper": {
            "split": {"official": True},
            "model": {
                "name": "covid-cnn",
                "filters": [1, 32, 64, 128, 256],
                "activation": "sigmoid",
            },
            "training": {"epochs": 100, "batch_size": 64},
        },
    }
    source_help = HELP

    settings: Settings

    @classmethod
    def infer_settings(
        cls, source: Path | None, given: Mapping[str, Any]
    ) -> tuple[dict[str, Any], list[str]]:
        source = cls.need_source(source)
        for name, folders in LAYOUTS.items():
            if _class_root(source, folders) is not None:
                return {"classes": list(folders)}, [f"the source has the layout of {name}"]
        return {}, []

    def samples(self) -> Samples:
        classes = self.settings.classes
        return image_samples((1, self.settings.size, self.settings.size), classes)

    def scan(self, source: Path | None) -> Scan:
        source = self.need_source(source)
        root, folders = self._class_folders(source)
        folders_with_tables = [
            root,
            *(parent for parent in root.parents if parent.is_relative_to(source)),
        ]
        patients = _read_patients(folders_with_tables)
        lists = _read_lists(folders_with_tables)
        size, slices = self.settings.size, self._slices(root, folders)
        names = [image.path.relative_to(source).as_posix() for image in slices]
        known = [
            patients.get(image.key) or patients.get(image.key_without_suffix) for image in slices
        ]
        return Scan(
            inputs=ImageFiles(
                [image.path for image in slices],
                Decode(size, size, channels=1, pad=self.settings.pad),
            ),
            labels=np.array([image.label for image in slices], dtype=np.int64),
            records=names,
            groups=[patient or name for patient, name in zip(known, names, strict=True)],
            official=[lists.get(image.key, "") for image in slices],
            refused=_missing(lists, slices),
            notes=[
                *_patient_notes(sum(patient is None for patient in known), len(slices)),
                *_list_notes(lists, slices),
                *_left_out(root, folders),
            ],
        )

    def cases(self, source: Path | None) -> Scan:
        """As `scan`, or all images of a folder without class folders."""
        source = self.need_source(source)
        layouts = [self.settings.folders, *LAYOUTS.values()]
        if any(folders and _class_root(source, folders) for folders in layouts):
            return super().cases(source)
        size = self.settings.size
        return image_cases(source, Decode(size, size, channels=1, pad=self.settings.pad), CASES)

    def _class_folders(self, source: Path) -> tuple[Path, dict[str, str]]:
        """The folder above the class folders, and each class's folder."""
        layouts = [self.settings.folders, *LAYOUTS.values()]
        chosen = [
            {name: layout[name] for name in self.settings.classes}
            for layout in layouts
            if layout.keys() >= set(self.settings.classes)
        ]
        for folders in chosen:
            root = _class_root(source, folders)
            if root is not None:
                return root, folders
        raise _no_layout(source, chosen)

    def _slices(self, root: Path, folders: dict[str, str]) -> list[_Slice]:
        slices = []
        for label, (name, folder) in enumerate(folders.items()):
            slices += [_Slice(path, name, label) for path in image_files(root / folder)]
        return slices


# The tables and lists identify a slice by its class and its file's name, in lower case.
Key = tuple[str, str]


@dataclass(frozen=True)
class _Slice:
    path: Path
    class_name: str
    label: int

    @property
    def key(self) -> Key:
        return self.class_name, self.path.name.lower()

    @property
    def key_without_suffix(self) -> Key:
        return self.class_name, self.path.stem.lower()


def _class_root(source: Path, folders: Mapping[str, str]) -> Path | None:
    """The source or a folder up to two levels below it that has all the class folders."""
    if not source.is_dir():
        return None
    for root in (source, *sorted(source.glob("*/")), *sorted(source.glob("*/*/"))):
        if all((root / folder).is_dir() for folder in folders.values()):
            return root
    return None


def _no_layout(source: Path, layouts: list[dict[str, str]]) -> BadDataError:
    """The error for a source that does not have all class folders of any layout."""
    there = sorted(entry.name for entry in source.iterdir()) if source.is_dir() else []
    missing = [sorted(set(folders.values()) - set(there)) for folders in layouts]
    partly = [
        absent
        for absent, folders in zip(missing, layouts, strict=True)
        if len(absent) < len(folders)
    ]
    names = ", ".join(f"'{name}'" for name in min(partly, key=len, default=[]))
    return BadDataError(
        f"the class folder {names} is missing" if names else "there are no class folders",
        where=source,
        expected=HELP,
        hint=f"there is: {', '.join(there[:10]) or 'nothing'}; give --source the folder above the "
        "class folders, or name the folders under dataset.folders in study.yaml; a hospital that "
        "has no such cases creates an empty folder for them",
    )


def _read_patients(folders: list[Path]) -> dict[Key, str]:
    """Slice -> patient, from tables such as meta_data_covid.csv or COVID-CT-MetaInfo.csv.

    A patient id that two tables share is treated as one patient, so that the samples of a patient
    never go to different splits.
    """
    patients: dict[Key, str] = {}
    for table in sorted(path for folder in folders for path in folder.glob("*[Mm]eta*.csv")):
        rows = csv.DictReader(_text(table).splitlines())
        headers = {plain_name(header): header for header in rows.fieldnames or []}
        file = next((headers[name] for name in headers if name in FILE_HEADERS), None)
        patient = next((headers[name] for name in headers if name in PATIENT_HEADERS), None)
        if file is None or patient is None:
            continue
        class_name = _table_class(table.name)
        for row in rows:
            name, patient_id = (row[file] or "").strip(), (row[patient] or "").strip()
            if name and patient_id:
                key = class_name, name.replace("\\", "/").rsplit("/", 1)[-1].lower()
                patients[key] = patient_id
    return patients


def _table_class(name: str) -> str:
    """The class that a table is about, by its file's name."""
    plain = plain_name(name)
    if "noncovid" in plain or "normal" in plain:
        return "non-COVID"
    return "CAP" if "cap" in plain else "COVID"


def _read_lists(folders: list[Path]) -> dict[Key, str]:
    """Slice -> split, from UCSD's Data-split; in two lists, the split further from training."""
    lists: dict[Key, str] = {}
    for prefix, split in SPLIT_LISTS.items():
        for class_name, list_folder in SPLIT_FOLDERS.items():
            for folder in folders:
                for path in sorted((folder / "Data-split" / list_folder).glob(f"{prefix}*.txt")):
                    for name in _lines(path):
                        lists[class_name, name.lower()] = split
    return lists


def _lines(path: Path) -> Iterator[str]:
    return (line.strip() for line in _text(path).splitlines() if line.strip())


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise StorageError.of(error, path, "read") from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        # The curated set's tables are in Latin-1, which decodes any byte.
        return raw.decode("latin-1")


def _missing(lists: dict[Key, str], slices: list[_Slice]) -> list[Refused]:
    present = {image.key for image in slices}
    classes = {image.class_name for image in slices}
    return [
        Refused(f"{class_name}/{name}", f"a {split} list names it, but there is no such file")
        for (class_name, name), split in lists.items()
        if class_name in classes and (class_name, name) not in present
    ]


def _patient_notes(unknown: int, total: int) -> list[str]:
    if unknown == total:
        return [
            "this source names no patients: slices of one patient may fall on both sides of a "
            "random split, so test figures may be too good"
        ]
    if unknown:
        return [
            f"{unknown} of {total} slices have no patient in the tables: each is treated "
            "as a patient of its own"
        ]
    return []


def _left_out(root: Path, folders: dict[str, str]) -> list[str]:
    """A note for a class of the curated set that the study leaves out."""
    return [
        f"the source has a class {name} too, which dataset.classes leaves out"
        for name, folder in LAYOUTS["curated"].items()
        if folders.items() < LAYOUTS["curated"].items()
        and name not in folders
        and (root / folder).is_dir()
    ]


def _list_notes(lists: dict[Key, str], slices: list[_Slice]) -> list[str]:
    unlisted = sum(image.key not in lists for image in slices)
    if not lists:
        return []
    notes = ["the source has its own split lists; split.official in study.yaml uses them"]
    if unlisted:
        notes.append(
            f"{plural(unlisted, 'slice is', 'slices are')} in no split list: they go to training"
        )
    return notes
