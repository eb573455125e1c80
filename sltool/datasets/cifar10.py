"""CIFAR-10 (Krizhevsky 2009), which the paper uses for the depth of the cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sltool.datasets.base import (
    IMAGE_PROTECTION,
    IMAGE_TRAINING,
    Dataset,
    Refused,
    Scan,
    image_samples,
    protected,
)
from sltool.datasets.cifar_pickle import read_pickled
from sltool.datasets.images import Decode, ImageFiles, image_files
from sltool.errors import BadDataError
from sltool.registry import datasets
from sltool.study.schema import Samples, Section

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32
TRAIN, TEST = "data_batch_[1-9]", "test_batch"

HELP = (
    "one of CIFAR-10's three layouts, from https://www.cs.toronto.edu/~kriz/cifar.html: the binary "
    "version (data_batch_1.bin ... test_batch.bin), the Python version (data_batch_1 ... "
    "test_batch), or a folder of images for each class, optionally below train/ and test/"
)

# A batch file -> images (n, 3, 32, 32) uint8 and labels (n,).
Reader = Callable[[Path], tuple[NDArray[np.uint8], NDArray[np.int64]]]

# Chosen by validation: docs/reproduction.md.
BEST: Mapping[str, Any] = {
    "split": {"official": True},
    "model": {"name": "resnet", "channels": 32},
    "encoding": {"views": 12, "augment": {"crop": 0.25}},
    "training": {**IMAGE_TRAINING, "epochs": 100, "augment": {"cutmix": 1.0}},
}


@datasets.register("cifar10")
class Cifar10(Dataset):
    """CIFAR-10: ten classes of small colour pictures, in its binary, Python or folder layout."""

    class Settings(Section):
        classes: tuple[str, ...] = Field(
            default=CLASSES,
            min_length=2,
            description="Class names in the order of the class indices; also the folders' names.",
        )

    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "best": BEST,
        # A code of one position has no rectangles to exchange.
        "private": protected({**BEST, "training": IMAGE_TRAINING}, IMAGE_PROTECTION),
        # The network of the paper's Table 1. Its Table 4 does not say how it was trained: this is
        # the training of docs/reproduction.md.
        "paper": {
            "split": {"official": True},
            "model": {"name": "covid-cnn", "filters": [16, 32, 64, 128, 256]},
            "encoding": {"views": 10},
            "training": {**IMAGE_TRAINING, "epochs": 15, "batch_size": 128},
        },
    }
    source_help = HELP

    settings: Settings

    @classmethod
    def infer_settings(
        cls, source: Path | None, given: Mapping[str, Any]
    ) -> tuple[dict[str, Any], list[str]]:
        source = cls.need_source(source)
        if not _batches(source)[0] and not _has_class_folders(source, CLASSES):
            raise _no_layout(source, CLASSES)
        return {}, []

    def samples(self) -> Samples:
        classes = self.settings.classes
        return image_samples(SHAPE, classes)

    def scan(self, source: Path | None) -> Scan:
        source = self.need_source(source)
        files, read = _batches(source)
        return self._batch_files(files, read) if files else self._folders(source)

    def _batch_files(self, files: list[Path], read: Reader) -> Scan:
        """Two passes: labels now, and pictures when `prepare` loads them, file by file."""
        places: list[tuple[int, int]] = []
        labels: list[int] = []
        refused = []
        for file, path in enumerate(files):
            for row, label in enumerate(read(path)[1].tolist()):
                if 0 <= label < len(self.settings.classes):
                    places.append((file, row))
                    labels.append(label)
                else:
                    refused.append(Refused(f"{path.name} #{row}", f"there is no class {label}"))
        names = [f"{files[file].name} #{row}" for file, row in places]
        return Scan(
            inputs=_Pictures(files, read, places),
            labels=np.array(labels, dtype=np.int64),
            records=names,
            groups=names,
            official=["test" if files[file].stem == TEST else "train" for file, _ in places],
            refused=refused,
            notes=_missing_batches(files),
        )

    def _folders(self, source: Path) -> Scan:
        classes = self.settings.classes
        if not _has_class_folders(source, classes):
            raise _no_layout(source, classes)
        found = [
            (path, class_index, official)
            for folder, official in (
                (source, ""),
                (source / "train", "train"),
                (source / "test", "test"),
            )
            for class_index, name in enumerate(classes)
            for path in image_files(folder / name)
        ]
        names = [path.relative_to(source).as_posix() for path, _, _ in found]
        return Scan(
            inputs=ImageFiles([path for path, _, _ in found], Decode(32, 32, channels=3)),
            labels=np.array([class_index for _, class_index, _ in found], dtype=np.int64),
            records=names,
            groups=names,
            official=[official for _, _, official in found],
        )


class _Pictures:
    """Loads a picture by its sample index; the two files used last stay in memory."""

    def __init__(self, files: list[Path], read: Reader, places: list[tuple[int, int]]) -> None:
        self._files = files
        self._read = read
        self._places = places
        self._lock = Lock()
        self._open: dict[int, NDArray[np.uint8]] = {}

    def __call__(self, index: int) -> NDArray[np.uint8]:
        file, row = self._places[index]
        with self._lock:
            if file not in self._open:
                # Some threads begin the next file while others still read the previous one.
                self._open = dict([*self._open.items()][-1:])
                self._open[file] = self._read(self._files[file])[0]
            picture: NDArray[np.uint8] = self._open[file][row]
            return picture


def read_binary(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """A memory-mapped batch of the binary layout: records of a label byte and 3072 pixel bytes.

    Raises:
        BadDataError: the file is empty, or its last record is incomplete.
    """
    size = path.stat().st_size
    if size == 0 or size % (1 + PIXELS):
        raise BadDataError(
            f"the file has {size} bytes",
            where=path,
            expected=f"a multiple of {1 + PIXELS}: a label and {PIXELS} pixels for each picture",
            hint="fetch the file again",
        )
    records = np.memmap(path, dtype=np.uint8, mode="r").reshape(-1, 1 + PIXELS)
    return records[:, 1:].reshape(-1, *SHAPE), records[:, 0].astype(np.int64)


def _batches(source: Path) -> tuple[list[Path], Reader]:
    """The batch files in the source or in the archive's own folder; training batches first."""
    for folder in (source, source / "cifar-10-batches-bin", source / "cifar-10-batches-py"):
        for suffix, read in ((".bin", read_binary), ("", read_pickled)):
            files = [*sorted(folder.glob(TRAIN + suffix)), *folder.glob(TEST + suffix)]
            files = [path for path in files if path.is_file()]
            if files:
                return files, read
    return [], read_binary


def _missing_batches(files: list[Path]) -> list[str]:
    train = sum(path.stem != TEST for path in files)
    notes = [] if train >= 5 else [f"found {train} of CIFAR-10's 5 training batches"]
    if train == len(files):
        notes.append("there is no test_batch: the test samples are drawn from the training batches")
    return notes


def _has_class_folders(source: Path, classes: tuple[str, ...]) -> bool:
    return any(
        all((folder / name).is_dir() for name in classes) for folder in (source, source / "train")
    )


def _no_layout(source: Path, classes: tuple[str, ...]) -> BadDataError:
    return BadDataError(
        "this is none of CIFAR-10's layouts",
        where=source,
        expected=f"{HELP}; the class folders would be {', '.join(classes)}",
    )
