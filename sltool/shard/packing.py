"""Quantised feature maps as packed bytes (docs/shard-format.md), with numpy alone.

A value is the index of its level, of 1, 2, 4 or 8 bits. The values of a feature map are packed in
row-major order, the first in the highest bits of the first byte; unused bits of the last byte are
zero.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from sltool.study.schema import Levels


def level_indices(maps: NDArray[np.float32], levels: Levels) -> NDArray[np.uint8]:
    """As `sltool.models.quantise.nearest_level`, for arrays."""
    steps = (maps - levels.low) / levels.step
    return np.asarray(np.clip(np.floor(steps + 0.5), 0, 2**levels.bits - 1), np.uint8)


def pack_levels(levels: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Indices of levels (n, ...) -> (n, bytes)."""
    flat = levels.reshape(len(levels), -1)
    per_byte = 8 // bits
    padded = np.pad(flat, ((0, 0), (0, -flat.shape[1] % per_byte)))
    groups = padded.reshape(len(flat), -1, per_byte) << _shifts(bits)
    return np.asarray(np.bitwise_or.reduce(groups, axis=2))


def byte_values(scale: Levels) -> NDArray[np.float32]:
    """(256, values a byte) the values that each byte stands for."""
    every = np.arange(256, dtype=np.uint8)[:, None]
    indices = every >> _shifts(scale.bits) & np.uint8(2**scale.bits - 1)
    return np.asarray(scale.low + indices * scale.step, np.float32)


def unpack_values(
    rows: NDArray[np.uint8], scale: Levels, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """Rows (n, bytes) -> feature maps (n, *shape) float32."""
    values = byte_values(scale)[rows].reshape(len(rows), -1)
    return np.asarray(values[:, : math.prod(shape)].reshape(-1, *shape))


def has_padding(rows: NDArray[np.uint8], bits: int, values: int) -> bool:
    """Whether a bit is set after the last of the `values` of a row (n, bytes)."""
    unused = 8 * rows.shape[1] - values * bits
    return bool((rows[:, -1] & np.uint8(2**unused - 1)).any())


def _shifts(bits: int) -> NDArray[np.uint8]:
    return np.arange(8 - bits, -1, -bits, dtype=np.uint8)
