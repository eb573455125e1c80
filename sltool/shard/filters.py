"""The three HDF5 filters of a shard's chunks: shuffle, deflate, fletcher32, in this order.

They are applied here and not by the HDF5 library: decompression is bounded, no plug-in can be
loaded, and all of it runs in threads. Specification: "HDF5 File Format Specification Version 2.0",
and for the checksum `H5_checksum_fletcher32` of the HDF5 library.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVEL = 1
CHECKSUM_BYTES = 4
# zlib's own bound for incompressible data lies below this.
OVERHEAD_BYTES = 1024


def pack_chunk(chunk: NDArray[Any]) -> bytes:
    """A whole chunk, C-contiguous -> the bytes that stand in the file."""
    plain = chunk.reshape(-1).view(np.uint8).reshape(-1, chunk.dtype.itemsize)
    shuffled = np.empty(plain.T.shape, np.uint8)
    # Plane by plane is several times as fast as one transposition.
    for number, plane in enumerate(shuffled):
        plane[:] = plain[:, number]
    packed = zlib.compress(shuffled.data, LEVEL)
    return packed + struct.pack("<I", fletcher32(packed))


def unpack_chunk(stored: bytes, count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The bytes that stand in the file -> `count` values; never takes more memory than they need.

    Raises:
        ValueError: the checksum is wrong, or the bytes are not exactly `count` values.
    """
    packed, checksum = stored[:-CHECKSUM_BYTES], stored[-CHECKSUM_BYTES:]
    if struct.pack("<I", fletcher32(packed)) != checksum:
        raise ValueError("a chunk's checksum is wrong")
    size = count * dtype.itemsize
    inflater = zlib.decompressobj()
    try:
        shuffled = inflater.decompress(packed, size)
    except zlib.error as error:
        raise ValueError("a chunk cannot be decompressed") from error
    if len(shuffled) != size or not _ends_here(inflater):
        raise ValueError("a chunk has another size than its shape says")
    plain = np.empty((count, dtype.itemsize), np.uint8)
    for number, plane in enumerate(np.frombuffer(shuffled, np.uint8).reshape(-1, count)):
        plain[:, number] = plane
    return plain.view(dtype).reshape(count)


def _ends_here(inflater: Any) -> bool:
    """Whether nothing follows; the end of the stream may not have been looked at yet."""
    if inflater.eof:
        return not inflater.unused_data
    more = inflater.decompress(inflater.unconsumed_tail, 1)
    return not more and inflater.eof and not inflater.unused_data


def fletcher32(data: bytes) -> int:
    """The checksum as HDF5 makes it: over big-endian 16-bit words, an odd byte padded with zero."""
    words = np.frombuffer(data + b"\0" if len(data) % 2 else data, ">u2").astype(np.int64)
    count = len(words)
    if not count:
        return 0
    first = _fold(int(words.sum()))
    # The sum of all running sums; a shard's chunks are far too small for 63 bits to overflow.
    second = _fold(int(words @ np.arange(count, 0, -1)))
    return second << 16 | first


def _fold(total: int) -> int:
    """Modulo 65535 as HDF5's folding leaves it: 65535 and not 0, unless nothing was added."""
    return (total - 1) % 0xFFFF + 1 if total else 0
