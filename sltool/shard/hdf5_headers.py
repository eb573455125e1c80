"""The HDF5 superblock and object headers of a shard, whose bytes are fixed except for addresses.

These are the bytes that HDF5 1.14 and 2.0 write with libver 'v108'. Specification: "HDF5 File
Format Specification Version 2.0", sections II.A (superblock) and IV.A (object headers); the
checksum is `H5_checksum_lookup3` of the HDF5 library, Bob Jenkins' public-domain lookup3.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sltool.shard.filters import LEVEL
from sltool.shard.manifest import USER_BLOCK
from sltool.shard.payload import Member

UNDEFINED = 2**64 - 1
SIGNATURE = b"\x89HDF\r\n\x1a\n"
ADDRESS_BYTES = 8
CHECKSUM_BYTES = 4

# Message types of an object header.
NIL, DATASPACE, LINK_INFO, DATATYPE, FILL_VALUE, LINK, LAYOUT, GROUP_INFO, FILTERS = (
    *(0x00, 0x01, 0x02, 0x03, 0x05, 0x06, 0x08, 0x0A),
    0x0B,
)
SHUFFLE, DEFLATE, FLETCHER32 = 2, 1, 3
# The library's own sizes of the messages of a new group and of a new dataset.
GROUP_BYTES, DATASET_BYTES = 120, 256
WORD = 2**32 - 1


@dataclass(frozen=True)
class Form:
    """A structure of fixed parts with an address between each two, and a checksum at the end."""

    parts: tuple[bytes, ...]

    @property
    def size(self) -> int:
        """Bytes in the file, with addresses and checksum."""
        addresses = ADDRESS_BYTES * (len(self.parts) - 1)
        return sum(map(len, self.parts)) + addresses + CHECKSUM_BYTES

    def fill(self, addresses: Iterable[int]) -> bytes:
        """The structure's bytes with these addresses and the checksum."""
        first, *others = self.parts
        filled = first
        for address, part in zip(addresses, others, strict=True):
            filled += struct.pack("<Q", address) + part
        return filled + struct.pack("<I", lookup3(filled))

    def addresses(self, found: bytes) -> list[int] | None:
        """The addresses in `found`, or None if it does not have this form."""
        addresses, place = [], 0
        for part in self.parts[:-1]:
            place += len(part)
            addresses.append(int.from_bytes(found[place : place + ADDRESS_BYTES], "little"))
            place += ADDRESS_BYTES
        return addresses if self.fill(addresses) == found else None


def superblock(file_bytes: int) -> Form:
    """Version 2, with addresses of eight bytes; its only address is the root group's header."""
    head = SIGNATURE + bytes([2, ADDRESS_BYTES, ADDRESS_BYTES, 0])
    return Form((head + struct.pack("<3Q", USER_BLOCK, UNDEFINED, file_bytes), b""))


def group_header(names: Iterable[str]) -> Form:
    """A group of hard links; its addresses are their targets' headers."""
    info = _message(LINK_INFO, bytes(2) + b"\xff" * 16) + _message(GROUP_INFO, bytes(2), flags=1)
    head = b"OHDR\x02\x00" + bytes([GROUP_BYTES])
    parts = [head + info]
    for name in names:
        # Version 1, no flags: a hard link, its name in ASCII after a length of 1 byte.
        link = b"\x01\x00" + bytes([len(name)]) + name.encode("ascii")
        parts[-1] += _message(LINK, link, more=ADDRESS_BYTES)
        parts.append(b"")
    used = sum(map(len, parts)) + ADDRESS_BYTES * (len(parts) - 1) - len(head)
    return Form((*parts[:-1], bytes(GROUP_BYTES - used)))


def dataset_header(member: Member) -> Form:
    """A chunked dataset; its address is that of its chunk index."""
    rank, itemsize = len(member.shape), member.dtype.itemsize
    extent = struct.pack(f"<{rank}Q", *member.shape)
    chunk = struct.pack(f"<{rank + 1}I", *member.chunks, itemsize)
    # Bit 0 of a message's flags marks it as constant.
    before = (
        _message(DATASPACE, struct.pack("<4B", 2, rank, 1, 1) + extent + extent)
        + _message(DATATYPE, _datatype(member.dtype), flags=1)
        + _message(FILL_VALUE, b"\x03\x0b", flags=1)
        + _message(FILTERS, _filter_pipeline(itemsize), flags=1)
        + _message(LAYOUT, bytes([3, 2, rank + 1]), more=ADDRESS_BYTES + len(chunk))
    )
    rest = DATASET_BYTES - len(before) - ADDRESS_BYTES - len(chunk) - 4
    head = b"OHDR\x02\x01" + struct.pack("<H", DATASET_BYTES)
    return Form((head + before, chunk + _message(NIL, bytes(rest))))


def _message(kind: int, content: bytes, *, flags: int = 0, more: int = 0) -> bytes:
    """A message whose last `more` bytes follow separately."""
    return struct.pack("<BHB", kind, len(content) + more, flags) + content


def _datatype(dtype: np.dtype[Any]) -> bytes:
    """The datatype message of little-endian IEEE floats and integers, and of padded ASCII."""
    if dtype.kind == "S":
        return struct.pack("<4BI", 0x13, 1, 0, 0, dtype.itemsize)
    return {
        "float16": bytes.fromhex("11200f00 02000000 0000 1000 0a 05 00 0a 0f000000"),
        "float32": bytes.fromhex("11201f00 04000000 0000 2000 17 08 00 17 7f000000"),
        "int32": bytes.fromhex("10080000 04000000 0000 2000"),
        "uint8": bytes.fromhex("10000000 01000000 0000 0800"),
    }[dtype.name]


def _filter_pipeline(itemsize: int) -> bytes:
    """Version 2, three filters: shuffle and deflate are marked optional, fletcher32 is not."""
    shuffle = struct.pack("<HHHI", SHUFFLE, 1, 1, itemsize)
    deflate = struct.pack("<HHHI", DEFLATE, 1, 1, LEVEL)
    return bytes([2, 3]) + shuffle + deflate + struct.pack("<HHH", FLETCHER32, 0, 0)


def lookup3(data: bytes) -> int:
    """The checksum of the superblock and of object headers; `data` is not empty."""
    a = b = c = 0xDEADBEEF + len(data) & WORD
    words = np.frombuffer(data.ljust(-(-len(data) // 12) * 12, b"\0"), "<u4").tolist()
    for place in range(0, len(words), 3):
        x, y, z = words[place : place + 3]
        a, b, c = a + x & WORD, b + y & WORD, c + z & WORD
        if place + 3 < len(words):
            for bits in (4, 6, 8, 16, 19, 4):
                a, b, c = b, c + b & WORD, (a - c & WORD) ^ _rotated(c, bits)
    for bits in (14, 11, 25, 16, 4, 14, 24):
        a, b, c = b, (c ^ b) - _rotated(b, bits) & WORD, a
    return b


def _rotated(word: int, bits: int) -> int:
    return (word << bits | word >> 32 - bits) & WORD
