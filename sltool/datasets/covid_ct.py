"""Chest CT slices in a folder per class (the paper's COVID-CT case)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from sltool.datasets.base import Dataset, Scan
from sltool.datasets.images import Decode, ImageFiles, image_files
from sltool.errors import BadDataError
from sltool.registry import datasets
from sltool.study import Labels, Samples, Section


@datasets.register("covid-ct")
class CovidCT(Dataset):
    """Chest CT slices, COVID or not: folders COVID and non-COVID of images."""

    class Settings(Section):
        size: int = Field(default=64, ge=8, description="Height and width in pixels.")
        pad: bool = Field(
            default=False, description="Keep the aspect ratio by padding, instead of stretching."
        )
        classes: dict[str, str] = Field(
            default={"non-COVID": "non-COVID", "COVID": "COVID"},
            min_length=2,
            description="Class name -> folder in the source; the last of two is the positive one.",
        )

    recipe: ClassVar[Mapping[str, Any]] = {
        "model": {"name": "covid-cnn", "filters": [1, 32, 64, 128, 256]},
        "training": {"epochs": 100, "batch_size": 64, "schedule": "cosine"},
    }
    source_help = "a folder with the folders COVID and non-COVID, each full of images"

    settings: Settings

    def samples(self) -> Samples:
        classes = tuple(self.settings.classes)
        return Samples(
            shape=(1, self.settings.size, self.settings.size),
            mean=(127.5,),
            sd=(127.5,),
            labels=Labels(kind="binary" if len(classes) == 2 else "multiclass", classes=classes),
        )

    def scan(self, source: Path | None) -> Scan:
        source = self.need_source(source)
        paths: list[Path] = []
        labels: list[int] = []
        for number, folder in enumerate(self.settings.classes.values()):
            found = self._class_files(source, folder)
            paths += found
            labels += [number] * len(found)
        names = [str(path.relative_to(source)) for path in paths]
        size = self.settings.size
        return Scan(
            inputs=ImageFiles(paths, Decode(size, size, channels=1, pad=self.settings.pad)),
            labels=np.array(labels, dtype=np.int64),
            records=names,
            groups=names,
            notes=[
                "this source names no patients: slices of one patient may fall on both sides of a "
                "random split, so test figures may be too good"
            ],
        )

    def _class_files(self, source: Path, folder: str) -> list[Path]:
        path = source / folder
        if not path.is_dir():
            there = sorted(entry.name for entry in source.iterdir()) if source.is_dir() else []
            raise BadDataError(
                f"the class folder '{folder}' is missing",
                where=source,
                expected=f"{self.source_help}; there is: {', '.join(there[:10]) or 'nothing'}",
                hint="give --source the folder above the class folders, or name the folders under "
                "dataset.classes in study.yaml",
            )
        files = image_files(path)
        if not files:
            raise BadDataError(
                f"the class '{folder}' is empty", where=path, expected="at least one image"
            )
        return files
