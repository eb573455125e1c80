"""A plug-in: DICOM files, as they come from a hospital's archive (pip install "sltool[dicom]")."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from pydantic import Field

from sltool.datasets.base import (
    IMAGE_PROTECTION,
    IMAGE_RECIPE,
    Dataset,
    Refused,
    Scan,
    image_samples,
    protected,
)
from sltool.datasets.dicom_files import Frames, Headers
from sltool.datasets.images import Decode
from sltool.datasets.source_columns import by_name
from sltool.errors import BadDataError
from sltool.registry import datasets
from sltool.study.schema import Positive, Samples, Section

TABLE = "labels.csv"


@datasets.register("dicom")
class Dicom(Dataset):
    """DICOM files of any modality, with a folder for each class or a table of labels."""

    class Settings(Section):
        size: int = Field(default=224, ge=8, description="Height and width in pixels.")
        pad: bool = Field(
            default=True, description="Keep the aspect ratio by padding, instead of stretching."
        )
        classes: dict[str, str] = Field(
            default={"negative": "negative", "positive": "positive"},
            min_length=2,
            description="Class name -> its folder in the source, or its label in the table; the "
            "last of two is the positive one.",
        )
        labels: str | None = Field(
            default=None,
            description="A CSV file in the source with the columns `file` (a path in the source) "
            "and `label`. null: a folder for each class.",
        )
        window: tuple[float, Positive] | None = Field(
            default=None,
            description="Centre and width of the grey values, after rescaling, for all files "
            "([40, 400] for soft tissue in CT). null: as each file says, or else its full range.",
        )
        frames: Frames = Field(
            default="all",
            description="Which pictures of a file with several: all, or the middle one.",
        )
        burned_in: bool = Field(
            default=False,
            description="Accept files that say that a name is burned into the picture.",
        )

    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "best": IMAGE_RECIPE,
        "private": protected(IMAGE_RECIPE, IMAGE_PROTECTION),
    }
    source_help = (
        "a folder with a folder of DICOM files for each class, or a folder of DICOM files with "
        "labels.csv (columns: file, label)"
    )

    settings: Settings

    @classmethod
    def infer_settings(
        cls, source: Path | None, given: Mapping[str, Any]
    ) -> tuple[dict[str, Any], list[str]]:
        if source is None or not source.is_dir():
            return {}, []
        if (source / TABLE).is_file():
            names = sorted(set(_table(source / TABLE)["label"]))
            found: dict[str, Any] = {"labels": TABLE}
        else:
            names = sorted(path.name for path in source.iterdir() if path.is_dir())
            found = {}
        if len(names) < 2:
            return found, []
        note = f"the classes are {', '.join(names)}, in this order (dataset.classes)"
        return {**found, "classes": {name: name for name in names}}, [note]

    def samples(self) -> Samples:
        classes = tuple(self.settings.classes)
        return image_samples((1, self.settings.size, self.settings.size), classes)

    def scan(self, source: Path | None) -> Scan:
        source = self.need_source(source)
        headers = Headers(source, self.settings.frames, self.settings.burned_in)
        by_table = self.settings.labels is not None
        files = self._labelled(source, headers.refused) if by_table else self._in_folders(source)
        found = [(frame, label) for path, label in files for frame in headers.frames(path)]
        frames = [frame for frame, _ in found]
        size = self.settings.size
        decode = Decode(size, size, pad=self.settings.pad, window=self.settings.window)
        return Scan(
            inputs=lambda index: frames[index].load(decode),
            labels=np.array([label for _, label in found], dtype=np.int64),
            records=[f"{frame.path.relative_to(source)}#{frame.index + 1}" for frame in frames],
            groups=[frame.patient for frame in frames],
            examinations=[frame.examination for frame in frames],
            columns=by_name([frame.columns for frame in frames]),
            refused=headers.refused,
            notes=headers.notes(),
        )

    def _in_folders(self, source: Path) -> Iterator[tuple[Path, int]]:
        for class_index, folder in enumerate(self.settings.classes.values()):
            if not (source / folder).is_dir():
                raise BadDataError(
                    f"the class folder '{folder}' is missing",
                    where=source,
                    expected=self.source_help,
                    hint="name the folders under dataset.classes in study.yaml; a hospital that "
                    "has no such cases creates an empty folder for them",
                )
            for path in sorted((source / folder).rglob("*")):
                if path.is_file() and not path.name.startswith("."):
                    yield path, class_index

    def _labelled(self, source: Path, refused: list[Refused]) -> Iterator[tuple[Path, int]]:
        indices = {label: index for index, label in enumerate(self.settings.classes.values())}
        table = _table(source / str(self.settings.labels))
        for file, label in zip(table["file"], table["label"], strict=True):
            path = source / file
            if not path.is_file() or not path.resolve().is_relative_to(source.resolve()):
                refused.append(Refused(file, f"{self.settings.labels} names it, but there is none"))
            elif label not in indices:
                refused.append(Refused(file, f"its label '{label}' is none of dataset.classes"))
            else:
                yield path, indices[label]


def _table(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, dtype=str, encoding="utf-8-sig", keep_default_na=False)
    except (OSError, ValueError) as error:
        raise BadDataError(f"the table of labels cannot be read: {error}", where=path) from error
    if not {"file", "label"} <= set(table.columns):
        present = ", ".join(map(str, table.columns))
        raise BadDataError(
            "the table of labels lacks a column",
            where=path,
            expected=f"the columns file and label; the table has: {present}",
        )
    return table
