"""The store: accepted feature maps in plain arrays that training reads at memory speed.

For each split there are four append-only files: `SPLIT.features` (rows as in the shards),
`SPLIT.labels` (float32 or int64), `SPLIT.pseudonyms` and `SPLIT.groups` (fixed-length bytes).
`index.json` lists the segments, one per shard. It is replaced atomically; a shard is in the store
from then on. Rows after the last segment are left over from a crash and are overwritten.

The store can be deleted at any time: it is rebuilt from `accepted/`.
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
from sltool.shard.packing import unpack_values
from sltool.shard.payload import GROUP_BYTES, ID_BYTES
from sltool.study.layout import StudyFolder
from sltool.study.schema import Levels, Study

if TYPE_CHECKING:
    import torch

ID_DTYPE = np.dtype(f"S{ID_BYTES}")
GROUP_DTYPE = np.dtype(f"S{GROUP_BYTES}")
INDEX = "index.json"


@dataclass(frozen=True)
class Segment:
    """One shard's rows: samples `start` to `start + samples` of its split's files.

    There are `views` rows of features per sample, the same count in all segments of a split.

    Attributes:
        digest: SHA-256 of the shard's manifest.
        previous: digest of the preceding shard, as recorded in the manifest.
        samples: sample count, without withdrawn samples.
        rms: root mean square of its feature maps.
        classes: sample count of each class; empty for regression.
        patients: for each class, the count of patients with samples of it; empty for regression.
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
    """`index.json`; `segments` has the fields of each `Segment`."""

    encoding: str
    segments: list[dict[str, Any]]


@dataclass(frozen=True)
class Shape:
    """Shape and dtype of one feature map in the store, and the kind of its label.

    With a `scale`, feature maps are quantised: a row has packed bytes, and the dtype is 'uint8'.
    """

    feature_shape: tuple[int, ...]
    dtype: str
    regression: bool
    scale: Levels | None = None

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of a row of the features' file."""
        if self.scale is None:
            return self.feature_shape
        return (self.scale.packed_bytes(math.prod(self.feature_shape)),)

    @property
    def row_bytes(self) -> int:
        """Size of one feature map in bytes."""
        return math.prod(self.row_shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class StoredSamples:
    """The samples of one split and some sites, in an order independent of their arrival.

    Attributes:
        features: (all rows of the split's file, *row_shape), memory-mapped; `feature_maps` gives
            values.
        rows: (N,) int64, the first row of each sample in `features`; its other views follow.
        views: feature maps per sample.
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
    shape: Shape

    def __len__(self) -> int:
        return len(self.rows)

    def feature_maps(self, rows: torch.Tensor) -> NDArray[np.float32]:
        """The feature maps of these rows of `features`, (n, *feature_shape)."""
        found: NDArray[Any] = self.features[rows].numpy()
        if self.shape.scale is None:
            return found.astype(np.float32)
        return unpack_values(found, self.shape.scale, self.shape.feature_shape)


class Store:
    """The store in `folder`, for one encoding.

    Args:
        left: sites that left the study: their segments stay in the store and are not used.
    """

    def __init__(
        self, folder: Path, encoding: str, shape: Shape, left: Collection[str] = ()
    ) -> None:
        self.folder = folder
        self.encoding = encoding
        self.shape = shape
        self.left = frozenset(left)
        self.segments = self._read_index()

    def __contains__(self, digest: object) -> bool:
        return any(segment.digest == digest for segment in self.segments)

    def sites(self) -> list[str]:
        """The sites with training samples in the store."""
        training = self.select("train")
        return sorted({segment.site for segment in training if segment.samples})

    def stage(
        self,
        segment: Segment,
        features: Iterable[NDArray[Any]],
        labels: NDArray[Any],
        pseudonyms: NDArray[np.bytes_],
        groups: NDArray[np.bytes_],
    ) -> Segment:
        """Write one shard's rows after the last segment; they take effect only with `commit`.

        Args:
            segment: its `start` is ignored: the rows follow the last segment.

        Raises:
            StorageError: no space or no permission; the store is unchanged.
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
        """Add the segment that `stage` has just written to the index."""
        self._write_index([*self.segments, segment])

    def refresh(self) -> None:
        """Read the index again, which another process may have changed."""
        self.segments = self._read_index()

    def select(
        self,
        split: str,
        sites: Sequence[str] | None = None,
        shards: Collection[str] | None = None,
    ) -> list[Segment]:
        """The segments of `split` at `sites` (default: all), sorted by site and sequence.

        Sites that left the study are left out in any case.

        Args:
            shards: digests of the shards to include; None: all.
        """
        selected = (
            segment
            for segment in self.segments
            if segment.split == split
            and segment.site not in self.left
            and (not sites or segment.site in sites)
            and (shards is None or segment.digest in shards)
        )
        return sorted(selected, key=lambda segment: (segment.site, segment.sequence))

    def samples(
        self,
        split: str,
        sites: Sequence[str] | None = None,
        shards: Collection[str] | None = None,
    ) -> StoredSamples:
        """The samples of the segments that `select` returns, in the same order.

        A site whose samples were all withdrawn is not in `StoredSamples.sites`.
        """
        # Imported here: the queue works without torch, which is slow to import.
        import torch

        segments = [segment for segment in self.select(split, sites, shards) if segment.samples]
        names = sorted({segment.site for segment in segments})
        index = _concatenate(
            [np.arange(segment.start, segment.start + segment.samples) for segment in segments]
        )
        length = self._length(split)
        views = segments[0].views if segments else 1
        label_dtype = np.dtype(np.float32 if self.shape.regression else np.int64)
        return StoredSamples(
            features=self._features(split, length * views),
            rows=torch.from_numpy(index * views),
            views=views,
            labels=torch.from_numpy(self._column(split, "labels", label_dtype, length)[index]),
            site=_concatenate(
                [np.full(segment.samples, names.index(segment.site)) for segment in segments]
            ),
            sites=names,
            pseudonyms=self._column(split, "pseudonyms", ID_DTYPE, length)[index],
            groups=self._column(split, "groups", GROUP_DTYPE, length)[index],
            shape=self.shape,
        )

    def pseudonyms(self, segment: Segment) -> NDArray[np.bytes_]:
        """The (samples,) pseudonyms of one segment."""
        return self._column(
            segment.split, "pseudonyms", ID_DTYPE, segment.samples, start=segment.start
        )

    def clear(self) -> None:
        """Empty the index and remove the rows' files, before a rebuild from `accepted/`."""
        self._write_index([])
        for path in self.folder.iterdir():
            # A run that is training keeps its mappings of removed files.
            if path.name != INDEX:
                remove(path)

    def _length(self, split: str) -> int:
        """The count of committed samples of a split."""
        return sum(segment.samples for segment in self.segments if segment.split == split)

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

        shape = (rows, *self.shape.row_shape)
        if rows == 0:
            return torch.empty(shape, dtype=getattr(torch, self.shape.dtype))
        # torch refuses read-only arrays; mode "c" (copy on write) opens the file for reading only.
        array = np.memmap(self._path(split, "features"), self.shape.dtype, "c", shape=shape)
        return torch.from_numpy(array)

    def _column(
        self, split: str, name: str, dtype: np.dtype[Any], length: int, start: int = 0
    ) -> NDArray[Any]:
        if length == 0:
            return np.empty(0, dtype)
        return np.fromfile(self._path(split, name), dtype, length, offset=start * dtype.itemsize)

    def _read_index(self) -> list[Segment]:
        """The segments; [] if the index belongs to another encoding or the store is damaged."""
        path = self.folder / INDEX
        if not path.is_file():
            return []
        try:
            index = read_json(path, Index, "the store's index", "")
            segments = TypeAdapter(list[Segment]).validate_python(index["segments"])
        except StorageError:
            raise
        except (BadDataError, ValidationError):
            # The queue rebuilds the store from `accepted/`.
            return []
        usable = index["encoding"] == self.encoding and self._is_complete(segments)
        return segments if usable else []

    def _is_complete(self, segments: list[Segment]) -> bool:
        """Whether the arrays exist and are at least as long as the segments require."""
        label_bytes = 4 if self.shape.regression else 8
        ends = {(segment.split, segment.views): 0 for segment in segments}
        for segment in segments:
            key = (segment.split, segment.views)
            ends[key] = max(ends[key], segment.start + segment.samples)
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
        index = {
            "encoding": self.encoding,
            "segments": [asdict(segment) for segment in segments],
        }
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
    levels = study.encoding.levels
    dtype = study.encoding.dtype if levels is None else "uint8"
    layout = Shape(shape, dtype, regression, levels)
    return Store(folder.store, encoding, layout, study.left_sites())


def is_lost(store: Store, folder: StudyFolder) -> bool:
    """Whether the store holds nothing of what was accepted, as after it was deleted."""
    return not store.segments and any(folder.accepted.glob("*.h5"))


def is_behind(store: Store, folder: StudyFolder) -> bool:
    """Whether shards were accepted that are not in the store: the server was stopped in between."""
    return sum(1 for _ in folder.accepted.glob("*.h5")) > len(store.segments)


def _concatenate(parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
