"""The hospital's own HDF5 files: `prepared.h5` (all samples) and `private.h5` (one site's samples).

For N samples, both contain `inputs` (N, *shape) uint8 or float32 in the source's units, `labels`
(N,) float32 or int64, and text columns: `prepared.h5` has `records`, `groups`, `examinations` and
`official`, and in the group `columns` those of `Scan.columns`; `private.h5` has `split`,
`pseudonyms` and `group_pseudonyms`, rows in shipping order, the attribute `names_patients`, and
`versions` if it has grown.
Neither file ever leaves the hospital.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypedDict

from sltool.errors import BadDataError, StageOrderError
from sltool.files import Document, canonical_json, parse_json, publish
from sltool.shard.hdf5_file import create_hdf5
from sltool.shard.payload import GROUP_BYTES, ID_BYTES, Rows
from sltool.study.layout import SiteFolder

BATCH_ROWS = 1024
TEXT = h5py.string_dtype()
COLUMNS = "columns"


class Version(TypedDict):
    """An earlier `private.h5` of a site that has grown: its hex SHA-256 and its rows."""

    sha256: str
    rows: int


@dataclass(frozen=True)
class PrivateFile:
    """An open `prepared.h5` or `private.h5`."""

    path: Path
    file: h5py.File
    made_by: str

    @property
    def inputs(self) -> h5py.Dataset:
        with self._checked:
            return self.file["inputs"]

    @property
    def labels(self) -> NDArray[Any]:
        with self._checked:
            return np.asarray(self.file["labels"][:])

    def text(self, name: str) -> list[str]:
        """A text column."""
        with self._checked:
            return list(self.file[name].asstr()[:])

    def named_columns(self) -> list[str]:
        """The names of the source's own columns; files of earlier versions may have none."""
        with self._checked:
            if COLUMNS not in self.file:
                return ["site"] if "sites" in self.file else []
            return [str(column.attrs["name"]) for column in self.file[COLUMNS].values()]

    def named_column(self, name: str) -> list[str]:
        """One of `named_columns`."""
        if COLUMNS not in self.file:
            return self.text("sites")
        return self.text(f"{COLUMNS}/{self.named_columns().index(name):04}")

    @property
    def seed(self) -> int:
        """The seed of the random versions of training images; 128 bits at a real site."""
        with self._checked:
            return int(self.file.attrs["seed"])

    @property
    def is_simulated(self) -> bool:
        """Whether the site is simulated: the seed of a real one has 128 random bits."""
        return self.seed < 2**64

    @property
    def names_patients(self) -> bool | None:
        """Whether the source names a patient of these samples; files of earlier versions: None."""
        with self._checked:
            stored = self.file.attrs.get("names_patients")
        return None if stored is None else bool(stored)

    @property
    def versions(self) -> list[Version]:
        """The file's earlier versions, oldest first: their rows are this one's first rows."""
        with self._checked:
            stored = "versions" in self.file
        return self.document("versions", list[Version]) if stored else []

    @property
    def state(self) -> str:
        """A digest of what the file was made from, to recognise finished work."""
        with self._checked:
            return str(self.file.attrs["state"])

    def rows(self, rows: NDArray[np.int64]) -> Rows:
        """Labels, pseudonyms and groups of these rows, as a shard has them."""
        pseudonyms = np.array(self.text("pseudonyms"), dtype=f"S{ID_BYTES}")
        groups = np.array(self.text("group_pseudonyms"), dtype=f"S{GROUP_BYTES}")
        return Rows(self.labels[rows], pseudonyms[rows], groups[rows])

    def document(self, name: str, kind: type[Document]) -> Document:
        """A JSON document, stored as a dataset if it may be long, else as an attribute."""
        with self._checked:
            stored = self.file[name][:].tobytes() if name in self.file else self.file.attrs[name]
            text = stored if isinstance(stored, bytes) else str(stored)
        return parse_json(text, kind, self.path, self.path.name, f"run `{self.made_by} --force`")

    def batches(self, start: int, stop: int, rows: int = BATCH_ROWS) -> Iterator[NDArray[Any]]:
        """The inputs from `start` to `stop`, a bounded block at a time."""
        inputs = self.inputs
        for begin in range(start, stop, rows):
            with self._checked:
                block = np.asarray(inputs[begin : min(begin + rows, stop)])
            yield block

    @property
    def _checked(self) -> AbstractContextManager[None]:
        return _readable(self.path, self.made_by)


@contextmanager
def _readable(path: Path, made_by: str) -> Iterator[None]:
    """Raise `BadDataError` (the file is damaged) for whatever h5py cannot find or read."""
    try:
        yield
    except (KeyError, OSError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise BadDataError(
            f"{path.name} is damaged: {error}", where=path, hint=f"run `{made_by} --force`"
        ) from error


@contextmanager
def open_private(path: Path, study_id: str, made_by: str) -> Iterator[PrivateFile]:
    """Open a private file of this study for reading.

    Raises:
        StageOrderError: the file does not exist yet; `made_by` is the command that makes it.
        BadDataError: it is not a private file of this study.
    """
    if not path.is_file():
        raise StageOrderError(
            f"{path.name} does not exist yet", where=path, hint=f"run `{made_by}` first"
        )
    with _readable(path, made_by):
        # Without a chunk cache, uncompressed chunks are read directly into the result.
        file = h5py.File(path, "r", rdcc_nbytes=0)
    with file:
        with _readable(path, made_by):
            stored_id = file.attrs.get("study")
        if stored_id != study_id:
            raise BadDataError(
                f"{path.name} belongs to another study",
                where=path,
                expected=f"study {study_id}",
                hint=f"run `{made_by} --force`",
            )
        yield PrivateFile(path, file, made_by)


def site_samples(site: SiteFolder) -> int | None:
    """The number of samples in a site's `private.h5`; None if there is none that can be read."""
    try:
        with h5py.File(site.private) as file:
            return len(file["inputs"])
    except (OSError, KeyError, TypeError):
        # Whoever reads the file says what is wrong with it.
        return None


@contextmanager
def create_private(path: Path, study_id: str, state: str) -> Iterator[h5py.File]:
    """Create a private file; it gets its final name when the body has succeeded."""
    with publish(path) as part, create_hdf5(part) as file:
        file.attrs["study"] = study_id
        file.attrs["state"] = state
        yield file


def write_text_column(file: h5py.File, name: str, values: list[str]) -> h5py.Dataset:
    """Add a text column."""
    return file.create_dataset(name, data=np.array(values, dtype=object), dtype=TEXT)


def write_named_columns(file: h5py.File, columns: Mapping[str, list[str]]) -> None:
    """Add the source's own columns; their names may hold what HDF5 takes for a path."""
    group = file.create_group(COLUMNS)
    for index, (name, values) in enumerate(columns.items()):
        write_text_column(group, f"{index:04}", values).attrs["name"] = name


def write_versions(file: h5py.File, versions: list[Version]) -> None:
    """Add the list of the file's earlier versions."""
    file["versions"] = np.frombuffer(canonical_json(versions), np.uint8)
