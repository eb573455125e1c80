"""The three HDF5 filters of a shard's chunks: shuffle, deflate, fletcher32, in this order.

They are applied here and not by the HDF5 library, so that decompression is bounded, no plug-in can
be loaded, and chunks are processed in threads. Specification: "HDF5 File Format Specification
Version 2.0", and for the checksum `H5_checksum_fletcher32` of the HDF5 library.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVEL = 1
# A window of 32 KiB, level 1, no dictionary (RFC 1950).
ZLIB_HEADER = b"\x78\x01"
ADLER_BYTES = 4
# The two bits that are zero in the head of a stored block; the bit below marks the last block.
STORED_MASK = 0b110
# Bytes of Adler-32 and of the byte before it, in which the last code ends.
STREAM_END = ADLER_BYTES + 1
CHECKSUM_BYTES = 4
# An upper bound of zlib's overhead for incompressible data.
OVERHEAD_BYTES = 1024


def pack_chunk(chunk: NDArray[Any]) -> bytes:
    """A whole chunk, C-contiguous -> its bytes in the file."""
    plain = chunk.reshape(-1).view(np.uint8).reshape(-1, chunk.dtype.itemsize)
    shuffled = np.empty(plain.T.shape, np.uint8)
    # Plane by plane is several times as fast as a single transposition.
    for byte, plane in enumerate(shuffled):
        plane[:] = plain[:, byte]
    # Runs only: twice as fast as the search for repeated strings, and no larger on feature maps.
    deflate = zlib.compressobj(LEVEL, strategy=zlib.Z_RLE)
    packed = deflate.compress(shuffled.data) + deflate.flush()
    return packed + struct.pack("<I", fletcher32(packed))


def unpack_chunk(stored: bytes, count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """A chunk's bytes in the file -> `count` values; memory is bounded by their size.

    Raises:
        ValueError: the checksum is wrong, or the bytes are not exactly `count` values.
    """
    packed, checksum = stored[:-CHECKSUM_BYTES], stored[-CHECKSUM_BYTES:]
    if struct.pack("<I", fletcher32(packed)) != checksum:
        raise ValueError("a chunk's checksum is wrong")
    if packed[: len(ZLIB_HEADER)] != ZLIB_HEADER:
        raise ValueError("a chunk was not compressed with level 1")
    shuffled = _inflate(packed, count * dtype.itemsize)
    plain = np.empty((count, dtype.itemsize), np.uint8)
    for byte, plane in enumerate(np.frombuffer(shuffled, np.uint8).reshape(-1, count)):
        plain[:, byte] = plane
    return plain.view(dtype).reshape(count)


def _inflate(packed: bytes, size: int) -> bytes:
    """Decompress a zlib stream of exactly `size` bytes that ends where `packed` ends.

    Raises:
        ValueError: it has another size, is damaged, or has bits that decoding ignores.
    """
    inflater = zlib.decompressobj()
    try:
        plain = inflater.decompress(packed[:-STREAM_END], size)
        end = inflater.unconsumed_tail + packed[-STREAM_END:]
        before_end = inflater.copy()
        plain += inflater.decompress(end, size + 1 - len(plain))
    except zlib.error as error:
        raise ValueError("a chunk cannot be decompressed") from error
    if len(plain) != size or not inflater.eof or inflater.unused_data:
        raise ValueError("a chunk has another size than its shape says")
    if _has_padding(packed) or _has_bits_after_end(before_end, end):
        raise ValueError("a chunk has unused bits that are not zero")
    return plain


def _has_padding(packed: bytes) -> bool:
    """Whether a bit is set between the head and the length of a stored block (RFC 1951).

    Checks only stored blocks before the first compressed one: zlib does not report where others
    begin.
    """
    place = len(ZLIB_HEADER)
    while not packed[place] & STORED_MASK:
        if packed[place] > 1:
            return True
        if packed[place]:
            break
        place += 5 + int.from_bytes(packed[place + 1 : place + 3], "little")
    return False


def _has_bits_after_end(inflater: Any, end: bytes) -> bool:
    """Whether a bit is set between the last code of a stream and its checksum.

    Decompression ignores such bits: if the highest set bit and all bits above it are flipped, the
    stream still ends. If the bit is part of a code, the flipped stream does not end, because its
    last code is no longer the one that marks the end.
    """
    last = end[-STREAM_END]
    if not last:
        return False
    flipped = last ^ (0xFF << last.bit_length() - 1 & 0xFF)
    try:
        inflater.decompress(end[:-STREAM_END] + bytes([flipped]) + end[-ADLER_BYTES:])
    except zlib.error:
        return False
    return bool(inflater.eof)


def fletcher32(data: bytes) -> int:
    """The checksum as in HDF5: over big-endian 16-bit words, an odd byte padded with zero."""
    words = np.frombuffer(data + b"\0" if len(data) % 2 else data, ">u2").astype(np.int64)
    count = len(words)
    if not count:
        return 0
    first = _fold(int(words.sum()))
    # The sum of all running sums; a shard's chunks are far too small for 63 bits to overflow.
    second = _fold(int(words @ np.arange(count, 0, -1)))
    return second << 16 | first


def _fold(total: int) -> int:
    """Modulo 65535 as HDF5 folds: 65535 instead of 0, unless the sum is 0."""
    return (total - 1) % 0xFFFF + 1 if total else 0
