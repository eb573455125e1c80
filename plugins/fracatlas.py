"""A plug-in: FracAtlas, 4,083 bone X-rays, fractured or not (Abedeen et al. 2023, CC BY 4.0)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

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
from sltool.datasets.images import Decode, ImageFiles, image_files
from sltool.errors import BadDataError
from sltool.registry import datasets
from sltool.study.schema import Samples, Section

PARTS = ("hand", "leg", "hip", "shoulder")
FOLDERS = ("Non_fractured", "Fractured")

BEST: Mapping[str, Any] = {
    **IMAGE_RECIPE,
    "dataset": {"size": 128},
    "model": {"name": "resnet", "server": {"dropout": 0.5}},
    "encoding": {"views": 16},
}


@datasets.register("fracatlas")
class FracAtlas(Dataset):
    """Bone X-rays of hand, leg, hip and shoulder, fractured or not (FracAtlas)."""

    class Settings(Section):
        size: int = Field(default=224, ge=8, description="Height and width in pixels.")
        pad: bool = Field(
            default=True, description="Keep the aspect ratio by padding, instead of stretching."
        )
        parts: tuple[Literal["hand", "leg", "hip", "shoulder"], ...] = Field(
            default=PARTS,
            min_length=1,
            description="Body parts; an image that shows any of them is used.",
        )

    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # Chosen by validation, see docs/reproduction.md: for so few images dropout and more views
        # count for more than resolution.
        "best": BEST,
        "private": protected(BEST, IMAGE_PROTECTION),
        # The paper's for MURA.
        "paper": {"model": {"name": "vgg19"}, "training": {"epochs": 50, "batch_size": 128}},
    }
    source_help = (
        "the unpacked FracAtlas folder: dataset.csv, and images/Fractured and images/Non_fractured "
        "(https://doi.org/10.6084/m9.figshare.22363012)"
    )

    settings: Settings

    def samples(self) -> Samples:
        return image_samples(
            (1, self.settings.size, self.settings.size), ("not fractured", "fractured")
        )

    def scan(self, source: Path | None) -> Scan:
        source = self.need_source(source)
        table = _table(source / "dataset.csv")
        shown = table[list(self.settings.parts)].max(axis=1) == 1
        files = {path.name: path for path in image_files(source / "images")}
        refused = [
            Refused(str(path.relative_to(source)), "dataset.csv does not name it")
            for name, path in files.items()
            if name not in table.index
        ]
        paths: list[Path] = []
        labels: list[int] = []
        for name in table.index[shown]:
            fractured = int(table.at[name, "fractured"])
            if name not in files:
                refused.append(Refused(name, "dataset.csv names it, but there is no such image"))
            elif files[name].parent.name != FOLDERS[fractured]:
                refused.append(Refused(name, "its folder contradicts dataset.csv"))
            else:
                paths.append(files[name])
                labels.append(fractured)
        records = [str(path.relative_to(source)) for path in paths]
        size = self.settings.size
        return Scan(
            inputs=ImageFiles(paths, Decode(size, size, channels=1, pad=self.settings.pad)),
            labels=np.array(labels, dtype=np.int64),
            records=records,
            groups=records,
            columns=_columns(table.loc[[path.name for path in paths]]),
            refused=refused,
            notes=[
                "FracAtlas names no patients: images of one patient may fall on both sides of a "
                "random split, so test figures may be too good"
            ],
        )


def _columns(table: pd.DataFrame) -> dict[str, list[str]]:
    """The parts of the body ('hand', 'leg+hip'), and the table's other columns as they are."""
    shown = [
        "+".join(name for name, value in zip(PARTS, row, strict=True) if value)
        for row in table[list(PARTS)].to_numpy()
    ]
    others = table.columns.difference([*PARTS, "fractured"])
    return {"part": shown, **{name: table[name].astype(str).tolist() for name in others}}


def _table(path: Path) -> pd.DataFrame:
    columns = {"image_id", *PARTS, "fractured"}
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise BadDataError(
            f"FracAtlas' table cannot be read: {error}",
            where=path,
            expected=FracAtlas.source_help,
        ) from error
    if not columns <= set(table.columns):
        raise BadDataError(
            "FracAtlas' table lacks a column", where=path, expected=", ".join(sorted(columns))
        )
    return table.drop_duplicates("image_id").set_index("image_id")
