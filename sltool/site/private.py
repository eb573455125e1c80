"""The hospital's own HDF5 files: `prepared.h5` (all samples) and `private.h5` (one site's).

Both hold, for N samples: `inputs` (N, *shape) uint8 or float32 in the source's units, `labels` (N,)
float32 or int64, and text columns: `prepared.h5` has `records`, `groups`, `examinations` and
`official`; `private.h5` has `split`, `pseudonyms` and `group_pseudonyms`, rows in shipping order.
Neither ever travels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from sltool.errors import BadDataError, StageOrderError
from sltool.files import publish
from sltool.shard.hdf5 import create_hdf5

SLAB = 1024
TEXT = h5py.string_dtype()


@dataclass(frozen=True)
class PrivateFile:
    """An open `prepared.h5` or `private.h5`."""

    path: Path
    file: h5py.File

    @property
    def inputs(self) -> h5py.Dataset:
        return self.file["inputs"]

    @property
    def labels(self) -> NDArray[Any]:
        return np.asarray(self.file["labels"][:])

    def text(self, name: str) -> list[str]:
        """A text column."""
        return list(self.file[name].asstr()[:])

    @property
    def seed(self) -> int:
        """The site's seed: of its noise and its views."""
        return int(self.file.attrs["seed"])

    @property
    def state(self) -> str:
        """What the file was made from, to recognise work that is done."""
        return str(self.file.attrs["state"])

    def slabs(self, start: int, stop: int, rows: int = SLAB) -> Iterator[NDArray[Any]]:
        """The inputs from `start` to `stop`, a bounded block at a time."""
        inputs = self.inputs
        for begin in range(start, stop, rows):
            yield np.asarray(inputs[begin : min(begin + rows, stop)])


@contextmanager
def open_private(path: Path, study_id: str, made_by: str) -> Iterator[PrivateFile]:
    """Open a private file of this study for reading.

    Raises:
        StageOrderError: it is not there yet; `made_by` says which stage makes it.
        BadDataError: it is not a private file of this study.
    """
    if not path.is_file():
        raise StageOrderError(
            f"{path.name} is not there yet", where=path, hint=f"run `{made_by}` first"
        )
    try:
        # Without a cache, chunks that have no filter are read straight into their place.
        file = h5py.File(path, "r", rdcc_nbytes=0)
    except OSError as error:
        raise BadDataError(f"{path.name} cannot be opened: {error}", where=path) from error
    with file:
        if file.attrs.get("study") != study_id:
            raise BadDataError(
                f"{path.name} belongs to another study",
                where=path,
                expected=f"study {study_id}",
                hint=f"run `{made_by} --force`",
            )
        yield PrivateFile(path, file)


@contextmanager
def create_private(path: Path, study_id: str, state: str) -> Iterator[h5py.File]:
    """Make a private file; it appears under its name when the body has succeeded."""
    with publish(path, mode=0o600) as part, create_hdf5(part) as file:
        file.attrs["study"] = study_id
        file.attrs["state"] = state
        yield file


def write_text_column(file: h5py.File, name: str, values: list[str]) -> None:
    """Add a text column."""
    file.create_dataset(name, data=np.array(values, dtype=object), dtype=TEXT)
