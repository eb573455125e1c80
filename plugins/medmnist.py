"""A plug-in: the .npz files of MedMNIST v2 and MedMNIST+ (Yang et al. 2023), any size."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sltool.datasets.base import (
    IMAGE_PROTECTION,
    IMAGE_TRAINING,
    Dataset,
    Scan,
    image_samples,
    protected,
)
from sltool.errors import BadDataError
from sltool.registry import datasets
from sltool.study.schema import Samples, Section

SPLITS = {"train": "train", "val": "validation", "test": "test"}

BEST: Mapping[str, Any] = {
    "split": {"official": True},
    "model": {"name": "resnet"},
    "encoding": {"views": 4},
    "training": IMAGE_TRAINING,
}


@datasets.register("medmnist")
class MedMNIST(Dataset):
    """A MedMNIST .npz file of 2D images with a class each, in its official splits."""

    class Settings(Section):
        size: int = Field(default=28, ge=8, description="Height and width in pixels, as stored.")
        channels: int = Field(default=1, ge=1, le=3, description="1 grey or 3 RGB, as stored.")
        classes: tuple[str, ...] = Field(
            default=("0", "1"),
            min_length=2,
            description="A name for each class index; the last of two is the positive one.",
        )

    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "best": BEST,
        "private": protected(BEST, IMAGE_PROTECTION),
    }
    source_help = "a .npz file of MedMNIST, such as pneumoniamnist.npz or pathmnist_64.npz"

    settings: Settings

    @classmethod
    def infer_settings(
        cls, source: Path | None, given: Mapping[str, Any]
    ) -> tuple[dict[str, Any], list[str]]:
        if source is None or not source.is_file():
            return {}, []
        images, labels = _member(source, "train_images"), _member(source, "train_labels")
        classes = [str(index) for index in range(int(labels.max()) + 1)]
        found: dict[str, Any] = {"size": images.shape[1], "classes": classes}
        found["channels"] = images.shape[3] if images.ndim == 4 else 1
        note = "the file has no class names: give them under dataset.classes in study.yaml"
        return found, [note]

    def samples(self) -> Samples:
        classes, channels = self.settings.classes, self.settings.channels
        return image_samples((channels, self.settings.size, self.settings.size), classes)

    def scan(self, source: Path | None) -> Scan:
        source = self.need_source(source)
        images = {split: self._images(source, split) for split in SPLITS}
        labels = {split: self._labels(source, split, len(images[split])) for split in SPLITS}
        places = [(split, row) for split in SPLITS for row in range(len(images[split]))]

        def load(index: int) -> NDArray[np.uint8]:
            split, row = places[index]
            picture = np.asarray(images[split][row])
            return picture[None] if picture.ndim == 2 else picture.transpose(2, 0, 1)

        records = [f"{split} {row}" for split, row in places]
        return Scan(
            inputs=load,
            labels=np.concatenate(list(labels.values())),
            records=records,
            groups=records,
            official=[SPLITS[split] for split, _ in places],
            notes=["MedMNIST names no patients; split.official uses its official splits"],
        )

    def _images(self, source: Path, split: str) -> NDArray[Any]:
        images = _member(source, f"{split}_images")
        size, channels = self.settings.size, self.settings.channels
        shape = (size, size) if channels == 1 else (size, size, channels)
        if images.shape[1:] != shape or images.dtype != np.uint8:
            raise BadDataError(
                f"'{split}_images' are {images.dtype} of shape {images.shape[1:]}",
                where=source,
                expected=f"uint8 of shape {shape}, as dataset.size and dataset.channels say",
            )
        return images

    def _labels(self, source: Path, split: str, images: int) -> NDArray[np.int64]:
        labels = _member(source, f"{split}_labels")
        if labels.shape not in ((images, 1), (images,)):
            raise BadDataError(
                f"'{split}_labels' have the shape {labels.shape} for {images} images",
                where=source,
                expected="a single class for each image; data sets with several labels for an "
                "image (chestmnist) are not supported by this plug-in",
            )
        indices = labels.reshape(-1).astype(np.int64)
        if len(indices) and not 0 <= indices.min() <= indices.max() < len(self.settings.classes):
            raise BadDataError(
                f"'{split}_labels' range from {indices.min()} to {indices.max()}",
                where=source,
                expected=f"0 to {len(self.settings.classes) - 1}, as dataset.classes says",
            )
        return indices


def _member(source: Path, name: str) -> NDArray[Any]:
    """An array of the .npz file, memory-mapped from an unnamed copy, so that files larger than the
    memory can be read.

    Raises:
        BadDataError: there is no such file or array, or it would have to be unpickled.
    """
    with tempfile.TemporaryFile() as copy:
        try:
            with zipfile.ZipFile(source) as archive, archive.open(f"{name}.npy") as packed:
                while block := packed.read(2**20):
                    copy.write(block)
            copy.seek(0)
            version = np.lib.format.read_magic(copy)
            read = np.lib.format.read_array_header_1_0
            if version != (1, 0):
                read = np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(copy)
            if dtype.hasobject:
                raise ValueError(f"'{name}' contains Python objects")
            order = "F" if fortran else "C"
            return np.memmap(copy, dtype, "r", copy.tell(), shape, order)  # type: ignore[call-overload, no-any-return]
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise BadDataError(
                f"the file is not one of MedMNIST: {error}",
                where=source,
                expected=MedMNIST.source_help,
            ) from error
