"""Bone X-rays of seven parts of the arm (the paper's MURA case)."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

import numpy as np
from pydantic import BeforeValidator, Field, field_validator

from sltool.datasets.base import (
    IMAGE_PROTECTION,
    IMAGE_RECIPE,
    Dataset,
    Refused,
    Scan,
    image_cases,
    image_samples,
    protected,
)
from sltool.datasets.images import Decode, ImageFiles, image_files
from sltool.datasets.mura_synthetic import NOTICE, write_synthetic
from sltool.errors import BadDataError, StorageError
from sltool.registry import datasets
from sltool.study.schema import Samples, Section
from sltool.wording import plural

Part = Literal["elbow", "finger", "forearm", "hand", "humerus", "shoulder", "wrist"]
ListName = Literal["train", "valid"]
BODY_PARTS: tuple[Part, ...] = get_args(Part)
LISTS: tuple[ListName, ...] = get_args(ListName)
PREFIX = "XR_"

TREE = """\
MURA-v1.1, Stanford's bone X-rays; each user has to request it, under a research use agreement, at
            https://stanfordmlgroup.github.io/competitions/mura/. The folder looks like this:
              MURA-v1.1/train_image_paths.csv      MURA-v1.1/train_labeled_studies.csv
              MURA-v1.1/valid_image_paths.csv      MURA-v1.1/valid_labeled_studies.csv
              MURA-v1.1/train/XR_SHOULDER/patient00001/study1_positive/image1.png
              MURA-v1.1/valid/XR_WRIST/patient11185/study1_negative/image1.png"""

IMAGE = re.compile(r"(?:.*/)?((train|valid)/XR_([A-Z]+)/(patient\d+)/([^/]+))/([^/]+)")
PATIENT = re.compile(r"(?:^|/)(patient\d+)/")
EXAMINATION = re.compile(r"(?:.*/)?((train|valid)/XR_([A-Z]+)/(patient\d+)/([^/]+))/?")


def _short(name: object) -> object:
    """'XR_SHOULDER' -> 'shoulder'."""
    return name.lower().removeprefix(PREFIX.lower()) if isinstance(name, str) else name


BodyPart = Annotated[Part, BeforeValidator(_short)]


@datasets.register("mura")
class Mura(Dataset):
    """Bone X-rays, normal or not: the tree and csv files of MURA-v1.1."""

    class Settings(Section):
        body_parts: tuple[BodyPart, ...] = Field(
            default=BODY_PARTS, min_length=1, description=f"Any of {', '.join(BODY_PARTS)}."
        )
        lists: tuple[ListName, ...] = Field(
            default=LISTS,
            min_length=1,
            description="Which of the source's lists are read; the paper's Table 2 counts train.",
        )
        valid_as: Literal["test", "validation"] = Field(
            default="test",
            description="With split.official: the split that the list 'valid' becomes. The other "
            "split is drawn from the patients of the list 'train'.",
        )
        size: int = Field(default=224, ge=8, description="Height and width in pixels.")
        pad: bool = Field(
            default=True, description="Keep the aspect ratio by padding, instead of stretching."
        )

        @field_validator("body_parts", mode="before")
        @classmethod
        def _all(cls, value: Any) -> Any:
            return BODY_PARTS if value in ("all", ["all"]) else value

    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "best": IMAGE_RECIPE,
        "private": protected(IMAGE_RECIPE, IMAGE_PROTECTION),
        "paper": {"model": {"name": "vgg19"}, "training": {"epochs": 50, "batch_size": 128}},
    }
    source_help = TREE

    settings: Settings

    @classmethod
    def infer_settings(
        cls, source: Path | None, given: Mapping[str, Any]
    ) -> tuple[dict[str, Any], list[str]]:
        root = _root(cls.need_source(source))
        lists = [name for name in LISTS if _csv(root, name, "image_paths").is_file()]
        parts = [
            part
            for part in BODY_PARTS
            if any((root / name / (PREFIX + part.upper())).is_dir() for name in lists)
        ]
        if not parts:
            raise _not_mura(root, "there is no folder train/XR_... or valid/XR_...")
        notes = []
        if len(lists) < len(LISTS):
            notes.append(f"the source has only the list {lists[0]}: dataset.lists is set to it")
        if len(parts) < len(BODY_PARTS):
            notes.append(f"the source has only {', '.join(parts)}: dataset.body_parts is set to it")
        return {"body_parts": parts, "lists": lists}, notes

    @classmethod
    def synthetic_source(cls, folder: Path, samples: int, seed: int) -> Path:
        return write_synthetic(folder, samples, seed, BODY_PARTS)

    def samples(self) -> Samples:
        return image_samples((1, self.settings.size, self.settings.size), ("negative", "positive"))

    def scan(self, source: Path | None) -> Scan:
        root = _root(self.need_source(source))
        readings = [
            _read(root, name, set(self.settings.body_parts)) for name in self.settings.lists
        ]
        images = [image for reading in readings for image in reading.images]
        size = self.settings.size
        official = {"train": "train", "valid": self.settings.valid_as}
        notes = [note for reading in readings for note in reading.notes] + _patient_notes(images)
        if (root / NOTICE).is_file():
            notes.insert(0, "this source is synthetic: its figures say nothing about X-rays")
        return Scan(
            inputs=ImageFiles(
                [root / image.path for image in images],
                Decode(size, size, channels=1, pad=self.settings.pad),
            ),
            labels=np.array([image.label for image in images], dtype=np.int64),
            records=[image.path for image in images],
            groups=[image.patient for image in images],
            examinations=[image.examination for image in images],
            official=[official[image.list] for image in images],
            parts=[(image.list, image.part) for image in images],
            columns={
                "part": [image.part for image in images],
                "list": [image.list for image in images],
            },
            refused=[sample for reading in readings for sample in reading.refused],
            notes=notes,
        )

    def cases(self, source: Path | None) -> Scan:
        """As `scan`, or all images of a folder without MURA's lists; folders name the patients."""
        source = self.need_source(source)
        if any(_csv(source, name, "image_paths").is_file() for name in LISTS):
            return super().cases(source)
        size, pad = self.settings.size, self.settings.pad
        scan = image_cases(source, Decode(size, size, channels=1, pad=pad), "a folder of X-rays")
        found = [PATIENT.search(record) for record in scan.records]
        patients = [
            match[1] if match else record for match, record in zip(found, scan.records, strict=True)
        ]
        return replace(scan, groups=patients)


@dataclass(frozen=True)
class _Image:
    """A line of a list of images; `path` is relative to the source's root."""

    path: str
    list: str
    part: str
    patient: str
    examination_folder: str
    label: int

    @property
    def examination(self) -> str:
        # A patient has a folder 'study1...' under every part of the body that was X-rayed.
        return f"{PREFIX}{self.part.upper()}/{self.examination_folder}"


@dataclass
class _Reading:
    """The contents of a list: images, refused samples and notes."""

    images: list[_Image] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def refuse(self, record: str, reason: str) -> None:
        self.refused.append(Refused(record, reason))


def _read(root: Path, name: str, parts: set[str]) -> _Reading:
    """Read the list 'train' or 'valid' of these body parts, and compare it with the files."""
    reading = _Reading()
    labels = _read_labels(root, name, parts, reading)
    present = {
        path.relative_to(root).as_posix()
        for part in sorted(parts)
        for path in image_files(root / name / (PREFIX + part.upper()))
    }
    table = _csv(root, name, "image_paths")
    listed: set[str] = set()
    for line, match, _ in _lines(table, IMAGE, name, parts, reading):
        path = f"{match[1]}/{match[6]}"
        if path in listed:
            reading.notes.append(f"{table.name} line {line} names {path} again: used once")
        elif path not in present:
            reading.refuse(path, f"{table.name} line {line} names it, but there is no such file")
        elif match[1] not in labels:
            reading.refuse(
                path, f"{_csv(root, name, 'labeled_studies').name} lacks its examination"
            )
        else:
            reading.images.append(
                _Image(path, name, match[3].lower(), match[4], match[5], labels[match[1]])
            )
        listed.add(path)
    for path in sorted(present - listed):
        reading.refuse(path, f"{table.name} does not name this file")
    _note_differences(reading, table.name, len(listed - present), len(present - listed))
    return reading


def _note_differences(reading: _Reading, table: str, missing: int, unnamed: int) -> None:
    if missing:
        reading.notes.append(
            f"{table} names {plural(missing, 'file that is', 'files that are')} missing"
        )
    if unnamed:
        reading.notes.append(f"{table} does not name {unnamed} of the files in the folders")


def _read_labels(root: Path, name: str, parts: set[str], reading: _Reading) -> dict[str, int]:
    """Each examination's folder -> its label in the csv, 0 or 1."""
    table = _csv(root, name, "labeled_studies")
    labels: dict[str, int] = {}
    for line, match, value in _lines(table, EXAMINATION, name, parts, reading):
        if value not in ("0", "1"):
            reading.refuse(f"{table.name} line {line}", f"the label is '{value}', not 0 or 1")
            continue
        labels[match[1]] = int(value)
        if match[5].endswith("_negative" if value == "1" else "_positive"):
            reading.notes.append(
                f"{table.name} line {line} labels {match[1]} with {value}, which contradicts "
                "its folder's name: the label in the csv is used"
            )
    return labels


def _lines(
    table: Path, pattern: re.Pattern[str], name: str, parts: set[str], reading: _Reading
) -> Iterator[tuple[int, re.Match[str], str]]:
    """The lines of a csv about these parts: line number, the path's match, the second column.

    Raises:
        BadDataError: the csv is missing or is not text.
    """
    try:
        text = table.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise _not_mura(table.parent, f"there is no {table.name}") from None
    except OSError as error:
        raise StorageError.of(error, table, "read") from error
    except UnicodeDecodeError as error:
        raise BadDataError(f"the csv is not UTF-8 text: {error}", where=table) from error
    for line, cells in enumerate(csv.reader(text.splitlines()), start=1):
        path = cells[0].strip() if cells else ""
        match = pattern.fullmatch(path)
        if match is None or match[2] != name or match[3].lower() not in BODY_PARTS:
            if path:
                reading.refuse(
                    f"{table.name} line {line}", f"'{path}' is not a path of MURA's tree"
                )
        elif match[3].lower() in parts:
            yield line, match, cells[1].strip() if len(cells) > 1 else ""


def _patient_notes(images: list[_Image]) -> list[str]:
    """Notes about patients with several parts of the body or in both lists."""
    parts, lists = defaultdict(set), defaultdict(set)
    for image in images:
        parts[image.patient].add(image.part)
        lists[image.patient].add(image.list)
    notes = []
    if several := sorted(patient for patient, found in parts.items() if len(found) > 1):
        notes.append(
            f"{plural(len(several), 'patient has', 'patients have')} more than one part "
            f"of the body: {_some(several)}; all images of a patient go to the same split"
        )
    if both := sorted(patient for patient, found in lists.items() if len(found) > 1):
        notes.append(
            f"{plural(len(both), 'patient is', 'patients are')} in both lists: "
            f"{_some(both)}; with split.official their images in the list train go with those in "
            "the list valid"
        )
    return notes


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")


def _csv(root: Path, name: str, what: str) -> Path:
    return root / f"{name}_{what}.csv"


def _root(source: Path) -> Path:
    """The folder with the csv files: the source, or a folder directly below it."""
    for root in (source, *sorted(source.glob("*/"))):
        if any(_csv(root, name, "image_paths").is_file() for name in LISTS):
            return root
    raise _not_mura(source, "there is no train_image_paths.csv and no valid_image_paths.csv")


def _not_mura(where: Path, what: str) -> BadDataError:
    return BadDataError(f"this is not MURA's tree: {what}", where=where, expected=TREE)
