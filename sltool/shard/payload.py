"""The HDF5 part of a shard: the shape, dtype and chunks of its four datasets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sltool.shard.manifest import Content

ID_BYTES = 32  # 16 random bytes in hex
GROUP_BYTES = 65  # patient, or patient/examination
CHUNK_BYTES = 64 * 1024
IMAGES_PER_CHUNK = 8


@dataclass(frozen=True)
class Member:
    """An HDF5 dataset of a shard, which has exactly this shape, dtype and chunk shape."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...]


@dataclass(frozen=True)
class Rows:
    """A shard's samples without their features.

    Attributes:
        labels: (N,) float32, or int32 class indices.
        pseudonyms: (N,) bytes of 32 hex digits.
        groups: (N,) bytes: a patient's pseudonym, or patient/examination.
    """

    labels: NDArray[Any]
    pseudonyms: NDArray[np.bytes_]
    groups: NDArray[np.bytes_]

    def __len__(self) -> int:
        return len(self.labels)


def members(content: Content, samples: int) -> dict[str, Member]:
    """The datasets of a shard with this many samples, by name."""
    return {
        "features": _features(content, samples),
        "labels": _column(samples, np.float32 if content.label == "regression" else np.int32),
        "pseudonyms": _column(samples, f"S{ID_BYTES}"),
        "groups": _column(samples, f"S{GROUP_BYTES}"),
    }


def _features(content: Content, samples: int) -> Member:
    rows, dtype = samples * content.views, np.dtype(content.dtype)
    shape = content.row_shape
    if len(shape) == 3:
        per_chunk = IMAGES_PER_CHUNK
    else:
        per_chunk = max(1, CHUNK_BYTES // (math.prod(shape) * dtype.itemsize))
    return Member((rows, *shape), dtype, (min(rows, per_chunk), *shape))


def _column(samples: int, dtype: DTypeLike) -> Member:
    dtype = np.dtype(dtype)
    return Member((samples,), dtype, (min(samples, CHUNK_BYTES // dtype.itemsize),))
