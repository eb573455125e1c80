"""The store: accepted feature maps in plain arrays that training reads at memory speed.

For each split four files grow row by row: `SPLIT.features` (in the study's dtype), `SPLIT.labels`
(float32 or int64), `SPLIT.pseudonyms` and `SPLIT.groups` (fixed-length bytes). `index.json` lists
the segments, one a shard; it is replaced as a whole, and that is the moment at which a shard is in
the store. What lies behind the last segment is left from a crash and is written over.

The store can be deleted at any time: it is made again from `accepted/`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from sltool.errors import BadDataError, StorageError
from sltool.files import open_in_place, read_json, remove, write_json
from sltool.models.privacy_layer_file import feature_shape
from sltool.shard.payload import GROUP_BYTES, ID_BYTES
from sltool.study.layout import StudyFolder
from sltool.study.schema import Study

if TYPE_CHECKING:
    import torch

ID_DTYPE = np.dtype(f"S{ID_BYTES}")
GROUP_DTYPE = np.dtype(f"S{GROUP_BYTES}")
INDEX = "index.json"


@dataclass(frozen=True)
class Segment:
    """One shard's rows: samples `start` to `start + samples` of its split's files.

    Each has `views` rows of features a sample; a split's segments all have the same.

    Attributes:
        digest: of the shard's manifest.
        previous: of the shard before it, as its manifest says.
        samples: without those that were withdrawn.
        rms: root mean square of its feature maps.
        classes: how many samples of each class; empty for regression.
        patients: how many patients have samples of each class; empty for regression.
    """

    digest: str
    previous: str | None
    site: str
    split: str
    sequence: int
    start: int
    samples: int
    views: int
    rms: float = 0.0
    classes: tuple[int, ...] = ()
    patients: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """The shard's name."""
        return f"{self.site}-{self.split}-{self.sequence:05d}"


class Index(TypedDict):
    """`index.json`; each segment is a `Segment` as a mapping."""

    encoding: str
    segments: list[dict[str, Any]]


@dataclass(frozen=True)
class Shape:
    """What one row of the store is."""

    feature_shape: tuple[int, ...]
    dtype: str
    regression: bool

    @property
    def row_bytes(self) -> int:
        """Bytes of one feature map."""
        return math.prod(self.feature_shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class StoredSamples:
    """The samples of one split and some sites, in an order that does not depend on arrival.

    Attributes:
        features: (all rows of the split's file, *feature_shape), memory-mapped.
        rows: (N,) int64, the first row of each sample in `features`; its views follow.
        views: feature maps a sample.
        labels: (N,) float32 or int64.
        site: (N,) index into `sites`.
        pseudonyms, groups: (N,) bytes.
    """

    features: torch.Tensor
    rows: torch.Tensor
    views: int
    labels: torch.Tensor
    site: NDArray[np.int64]
    sites: list[str]
    pseudonyms: NDArray[np.bytes_]
    groups: NDArray[np.bytes_]

    def __len__(self) -> int:
        return len(self.rows)


class Store:
    """The store in `folder`, for one encoding."""

    def __init__(self, folder: Path, encoding: str, shape: Shape) -> None:
        self.folder = folder
        self.encoding = encoding
        self.shape = shape
        self.segments = self._read_index()

    def __contains__(self, digest: object) -> bool:
        return any(segment.digest == digest for segment in self.segments)

    def sites(self) -> list[str]:
        """The sites that have sent training samples."""
        return sorted({one.site for one in self.segments if one.split == "train" and one.samples})

    def stage(
        self,
        segment: Segment,
        features: Iterable[NDArray[Any]],
        labels: NDArray[Any],
        pseudonyms: NDArray[np.bytes_],
        groups: NDArray[np.bytes_],
    ) -> Segment:
        """Write one shard's rows behind the last segment; they count only after `commit`.

        Args:
            segment: its `start` is ignored; the store knows where its rows go.

        Raises:
            StorageError: no space or no permission; the store stays as it was.
        """
        start = self._length(segment.split)
        label_dtype = np.float32 if self.shape.regression else np.int64
        offset = start * segment.views * self.shape.row_bytes
        self._append(segment.split, "features", offset, features)
        for name, column in (
            ("labels", labels.astype(label_dtype)),
            ("pseudonyms", pseudonyms.astype(ID_DTYPE)),
            ("groups", groups.astype(GROUP_DTYPE)),
        ):
            self._append(segment.split, name, start * column.itemsize, [column])
        return replace(segment, start=start)

    def commit(self, segment: Segment) -> None:
        """Enter a segment that `stage` has just written."""
        self._write_index([*self.segments, segment])

    def refresh(self) -> None:
        """See what another process has added."""
        self.segments = self._read_index()

    def chosen(
        self,
        split: str,
        sites: Sequence[str] | None = None,
        shards: Collection[str] | None = None,
    ) -> list[Segment]:
        """The segments of `split` at `sites` (default: all), by site and number.

        Args:
            shards: digests; the others are left out. None: no limit.
        """
        found = (
            one
            for one in self.segments
            if one.split == split
            and (not sites or one.site in sites)
            and (shards is None or one.digest in shards)
        )
        return sorted(found, key=lambda one: (one.site, one.sequence))

    def samples(
        self,
        split: str,
        sites: Sequence[str] | None = None,
        shards: Collection[str] | None = None,
    ) -> StoredSamples:
        """The samples of the `chosen` segments, in their order.

        A site whose samples were all withdrawn is none of `StoredSamples.sites`.
        """
        # Not above: the queue takes shards in without torch, which is slow to import.
        import torch

        chosen = [one for one in self.chosen(split, sites, shards) if one.samples]
        names = sorted({one.site for one in chosen})
        index = _concatenate([np.arange(one.start, one.start + one.samples) for one in chosen])
        length = self._length(split)
        views = chosen[0].views if chosen else 1
        label_dtype = np.dtype(np.float32 if self.shape.regression else np.int64)
        return StoredSamples(
            features=self._features(split, length * views),
            rows=torch.from_numpy(index * views),
            views=views,
            labels=torch.from_numpy(self._column(split, "labels", label_dtype, length)[index]),
            site=_concatenate([np.full(one.samples, names.index(one.site)) for one in chosen]),
            sites=names,
            pseudonyms=self._column(split, "pseudonyms", ID_DTYPE, length)[index],
            groups=self._column(split, "groups", GROUP_DTYPE, length)[index],
        )

    def pseudonyms(self, segment: Segment) -> NDArray[np.bytes_]:
        """(samples,) of one segment."""
        return self._column(
            segment.split, "pseudonyms", ID_DTYPE, segment.samples, start=segment.start
        )

    def clear(self) -> None:
        """Forget everything, to be made again from `accepted/`; the rows' files are removed."""
        self._write_index([])
        for path in self.folder.iterdir():
            # A run that is training keeps what it has mapped.
            if path.name != INDEX:
                remove(path)

    def _length(self, split: str) -> int:
        """Committed samples of a split."""
        return sum(one.samples for one in self.segments if one.split == split)

    def _path(self, split: str, name: str) -> Path:
        return self.folder / f"{split}.{name}"

    def _append(self, split: str, name: str, offset: int, blocks: Iterable[NDArray[Any]]) -> None:
        path = self._path(split, name)
        try:
            with open_in_place(path, "r+b" if path.exists() else "w+b") as file:
                file.seek(offset)
                for block in blocks:
                    file.write(np.ascontiguousarray(block).data)
                file.truncate()
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageError.of(error, path) from error

    def _features(self, split: str, rows: int) -> torch.Tensor:
        import torch

        shape = (rows, *self.shape.feature_shape)
        if rows == 0:
            return torch.empty(shape, dtype=getattr(torch, self.shape.dtype))
        # Mode "c" opens the file for reading only, and torch takes no array that it cannot write.
        array = np.memmap(self._path(split, "features"), self.shape.dtype, "c", shape=shape)
        return torch.from_numpy(array)

    def _column(
        self, split: str, name: str, dtype: np.dtype[Any], length: int, start: int = 0
    ) -> NDArray[Any]:
        if length == 0:
            return np.empty(0, dtype)
        return np.fromfile(self._path(split, name), dtype, length, offset=start * dtype.itemsize)

    def _read_index(self) -> list[Segment]:
        """The segments; none where the index is of another encoding, or the store is damaged."""
        path = self.folder / INDEX
        if not path.is_file():
            return []
        try:
            index = read_json(path, Index, "the store's index", "")
            segments = TypeAdapter(list[Segment]).validate_python(index["segments"])
        except StorageError:
            raise
        except (BadDataError, ValidationError):
            # The queue makes the store again from `accepted/`.
            return []
        return segments if index["encoding"] == self.encoding and self._holds(segments) else []

    def _holds(self, segments: list[Segment]) -> bool:
        """Whether the arrays are there, and as long as the segments say."""
        label_bytes = 4 if self.shape.regression else 8
        ends = {(one.split, one.views): 0 for one in segments}
        for one in segments:
            key = (one.split, one.views)
            ends[key] = max(ends[key], one.start + one.samples)
        return all(
            _size(self._path(split, name)) >= samples * row_bytes
            for (split, views), samples in ends.items()
            for name, row_bytes in (
                ("features", views * self.shape.row_bytes),
                ("labels", label_bytes),
                ("pseudonyms", ID_BYTES),
                ("groups", GROUP_BYTES),
            )
        )

    def _write_index(self, segments: list[Segment]) -> None:
        index = {"encoding": self.encoding, "segments": [asdict(one) for one in segments]}
        write_json(self.folder / INDEX, index)
        self.segments = segments


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def open_store(folder: StudyFolder, study: Study) -> Store:
    """The store of a study's server.

    Raises:
        StageOrderError: there is no privacy layer.
        StorageError: the store's index cannot be read.
    """
    shape = feature_shape(folder.privacy_layer, study)
    encoding = study.encoding_digest(folder.privacy_layer)
    regression = study.samples.labels.kind == "regression"
    return Store(folder.store, encoding, Shape(shape, study.encoding.dtype, regression))


def is_lost(store: Store, folder: StudyFolder) -> bool:
    """Whether the store holds nothing of what was accepted, as after it was deleted."""
    return not store.segments and any(folder.accepted.glob("*.h5"))


def _concatenate(parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
