"""Where a shard's chunks lie: a strict parser of the few HDF5 structures that a shard may have.

The HDF5 library is "not designed to handle maliciously crafted files safely", so it never opens a
shard that came from outside. This parser knows superblock version 2, version 2 object headers,
hard links, fixed dtypes, the three filters and the version 1 B-tree of chunks, as libver 'v108'
writes them (docs/shard-format.md), and refuses everything else: it has no code that could
follow a link, open another file, load a plug-in or decompress. Specification: "HDF5 File Format
Specification Version 2.0", sections II.A (superblock), III.A.1 (B-tree), IV.A (object headers).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sltool.shard.filters import CHECKSUM_BYTES, OVERHEAD_BYTES
from sltool.shard.manifest import USER_BLOCK
from sltool.shard.opened import OpenedFile
from sltool.shard.payload import Member

UNDEFINED = 2**64 - 1
SIGNATURE = b"\x89HDF\r\n\x1a\n"

# Message types of an object header.
NIL, DATASPACE, LINK_INFO, DATATYPE, FILL_VALUE, LINK, LAYOUT, GROUP_INFO, FILTERS = (
    *(0x00, 0x01, 0x02, 0x03, 0x05, 0x06, 0x08, 0x0A),
    0x0B,
)
SHUFFLE, DEFLATE, FLETCHER32 = 2, 1, 3

HEADER_LIMIT = 4096
NODE_ENTRIES = 64
NODE_LEVELS = 8


@dataclass(frozen=True)
class Chunks:
    """The chunks of one dataset in the order of their rows.

    Attributes:
        offsets: (n,) int64, where each begins in the file.
        sizes: (n,) int64, bytes in the file.
    """

    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]


def find_chunks(file: OpenedFile, layout: dict[str, Member]) -> dict[str, Chunks]:
    """Where the chunks of each dataset lie, if the payload has exactly this layout.

    Raises:
        ShardRefusedError: anything is not as the format says.
    """
    links = _links(file, _root(file))
    if set(links) != set(layout) or len(set(links.values())) != len(layout):
        raise file.refused(
            "has other members than the format allows", expected=f"{', '.join(layout)}"
        )
    chunks = {name: _dataset(file, name, links[name], layout[name]) for name in layout}
    _check_apart(file, list(chunks.values()))
    return chunks


def _root(file: OpenedFile) -> int:
    """The address of the root group's object header."""
    block = file.read(USER_BLOCK, 48)
    if len(block) != 48 or block[:12] != SIGNATURE + bytes([2, 8, 8, 0]):
        raise file.refused("has no HDF5 superblock of version 2")
    base, extension, end, root = struct.unpack_from("<4Q", block, 12)
    if (base, extension, end) != (USER_BLOCK, UNDEFINED, file.size):
        raise file.refused("has an HDF5 superblock that does not fit the file")
    return int(root)


def _messages(file: OpenedFile, address: int, allowed: set[int]) -> Iterator[tuple[int, bytes]]:
    """The messages of a version 2 object header: (type, content)."""
    head = _read(file, address, 14)
    flags = head[5]
    width = 1 << (flags & 3)
    if head[:5] != b"OHDR\x02" or flags & ~3:
        raise file.refused("has an object header that the format does not allow")
    size = int.from_bytes(head[6 : 6 + width], "little")
    if size > HEADER_LIMIT:
        raise file.refused("has an object header that is too long")
    body = _read(file, address + 6 + width, size)
    place = 0
    while place + 4 <= size:
        kind, length, message_flags = struct.unpack_from("<BHB", body, place)
        content = body[place + 4 : place + 4 + length]
        place += 4 + length
        if kind == NIL and len(content) == length:
            continue
        # Bit 0 says that the message never changes; the others make it shared or special.
        if kind not in allowed or message_flags & ~1 or len(content) != length:
            raise file.refused(
                f"has an HDF5 message (type {kind}) that the format does not allow",
                expected="no attribute, no continuation, nothing shared",
            )
        yield kind, content


def _links(file: OpenedFile, root: int) -> dict[str, int]:
    """The names in the root group and the object headers that they lead to: hard links only."""
    links: dict[str, int] = {}
    for kind, content in _messages(file, root, {LINK_INFO, GROUP_INFO, LINK}):
        if kind == LINK_INFO and content != bytes(2) + b"\xff" * 16:
            raise file.refused("keeps its links where the format does not allow")
        if kind == LINK:
            name, address = _hard_link(file, content)
            if name in links:
                raise file.refused(f"has '{name}' twice")
            links[name] = address
    return links


def _hard_link(file: OpenedFile, content: bytes) -> tuple[str, int]:
    # Version 1, no flags: a hard link, its name in ASCII with a length of one byte.
    if content[:2] != b"\x01\x00" or len(content) < 3 or len(content) != 11 + content[2]:
        raise file.refused("has a link that is not a plain hard link")
    name = content[3 : 3 + content[2]].decode("ascii", "backslashreplace")
    return name, int.from_bytes(content[-8:], "little")


def _dataset(file: OpenedFile, name: str, address: int, member: Member) -> Chunks:
    found: dict[int, bytes] = {}
    allowed = {DATASPACE, DATATYPE, FILL_VALUE, FILTERS, LAYOUT}
    for kind, content in _messages(file, address, allowed):
        if kind in found:
            raise file.refused(f"describes the dataset '{name}' twice")
        found[kind] = content
    if set(found) != allowed or not _fits(found, member):
        raise file.refused(f"has a dataset '{name}' of another layout")
    (index,) = struct.unpack_from("<Q", found[LAYOUT], 3)
    return _chunks(file, name, index, member)


def _fits(found: dict[int, bytes], member: Member) -> bool:
    return (
        found[DATASPACE] in _dataspaces(member.shape)
        and found[DATATYPE] == _datatype(member.dtype)
        and len(found[FILL_VALUE]) == 2
        and _is_pipeline(found[FILTERS], member.dtype.itemsize)
        and _is_layout(found[LAYOUT], member)
    )


def _dataspaces(shape: tuple[int, ...]) -> list[bytes]:
    """A simple dataspace of this shape, which cannot grow: with or without its greatest extent."""
    extent = struct.pack(f"<{len(shape)}Q", *shape)
    return [
        struct.pack("<4B", 2, len(shape), 1, 1) + extent + extent,
        struct.pack("<4B", 2, len(shape), 0, 1) + extent,
    ]


def _datatype(dtype: np.dtype[Any]) -> bytes:
    """The datatype message of IEEE little-endian floats, int32 and null-padded ASCII strings."""
    if dtype.kind == "S":
        return struct.pack("<4BI", 0x13, 1, 0, 0, dtype.itemsize)
    return {
        "float16": bytes.fromhex("11200f00 02000000 0000 1000 0a 05 00 0a 0f000000"),
        "float32": bytes.fromhex("11201f00 04000000 0000 2000 17 08 00 17 7f000000"),
        "int32": bytes.fromhex("10080000 04000000 0000 2000"),
    }[dtype.name]


def _is_pipeline(content: bytes, itemsize: int) -> bool:
    """Shuffle, deflate at any level, fletcher32; each may be marked optional."""
    if len(content) != 28:
        return False
    version, count, *fields = struct.unpack("<BB HHHI HHHI HHH", content)
    shuffle, deflate, checksum = fields[:4], fields[4:8], fields[8:]
    return (
        (version, count) == (2, 3)
        and [shuffle[0], *shuffle[2:]] == [SHUFFLE, 1, itemsize]
        and [deflate[0], deflate[2]] == [DEFLATE, 1]
        and deflate[3] <= 9
        and [checksum[0], checksum[2]] == [FLETCHER32, 0]
        and all(flags <= 1 for flags in (shuffle[1], deflate[1], checksum[1]))
    )


def _is_layout(content: bytes, member: Member) -> bool:
    rank = len(member.chunks)
    shape = struct.pack(f"<{rank + 1}I", *member.chunks, member.dtype.itemsize)
    return content[:3] == bytes([3, 2, rank + 1]) and content[11:] == shape


def _chunks(file: OpenedFile, name: str, index: int, member: Member) -> Chunks:
    expected = -(-member.shape[0] // member.chunks[0])
    entries = _entries(file, index, len(member.shape), expected)
    if len(entries) != expected:
        raise file.refused(f"declares {expected} chunks of '{name}' and has {len(entries)}")
    entries = entries[np.argsort(entries["place"][:, 0], kind="stable")]
    rows = np.arange(expected, dtype=np.uint64) * np.uint64(member.chunks[0])
    if (entries["place"][:, 0] != rows).any() or entries["place"][:, 1:].any():
        raise file.refused(f"lacks chunks of '{name}'")
    if entries["mask"].any():
        raise file.refused(f"has chunks of '{name}' that skip a filter")
    plain = math.prod(member.chunks) * member.dtype.itemsize
    sizes, places = entries["size"].astype(np.int64), entries["child"]
    limit = np.uint64(file.size - USER_BLOCK)
    if (
        (sizes <= CHECKSUM_BYTES).any()
        or (sizes > plain + plain // 100 + OVERHEAD_BYTES).any()
        or (places >= limit).any()
        or (places + entries["size"] > limit).any()
    ):
        raise file.refused(f"has chunks of '{name}' with an impossible size or place")
    return Chunks(places.astype(np.int64) + USER_BLOCK, sizes)


def _entries(file: OpenedFile, index: int, rank: int, expected: int) -> NDArray[Any]:
    """The leaves' entries of a version 1 B-tree of chunks, in no certain order."""
    entry = np.dtype(
        [("size", "<u4"), ("mask", "<u4"), ("place", "<u8", (rank + 1,)), ("child", "<u8")]
    )
    waiting, leaves, count = [(index, -1)], [np.empty(0, entry)], 0
    seen: set[int] = set()
    while waiting:
        address, level = waiting.pop()
        # A tree in which every node has an entry has fewer nodes than this.
        if address in seen or len(seen) > 2 * expected + NODE_LEVELS or count > expected:
            raise file.refused("has a chunk index that does not end")
        seen.add(address)
        head = _read(file, address, 24)
        used = int.from_bytes(head[6:8], "little")
        if (
            head[:5] != b"TREE\x01"
            or not 0 < used <= NODE_ENTRIES
            or head[5] != (level if level >= 0 else head[5])
            or head[5] >= NODE_LEVELS
        ):
            raise file.refused("has a chunk index that the format does not allow")
        node = np.frombuffer(_read(file, address + 24, used * entry.itemsize), entry)
        if head[5] == 0:
            leaves.append(node)
            count += used
        else:
            waiting.extend((int(child), head[5] - 1) for child in node["child"])
    return np.concatenate(leaves)


def _read(file: OpenedFile, address: int, size: int) -> bytes:
    """`size` bytes at an address of the payload."""
    if address + size > file.size - USER_BLOCK:
        raise file.refused("points behind its own end")
    found = file.read(USER_BLOCK + address, size)
    if len(found) != size:
        raise file.refused("was cut off while it was read")
    return found


def _check_apart(file: OpenedFile, chunks: list[Chunks]) -> None:
    """No byte belongs to two chunks."""
    offsets = np.concatenate([one.offsets for one in chunks])
    sizes = np.concatenate([one.sizes for one in chunks])
    order = np.argsort(offsets)
    if (offsets[order][:-1] + sizes[order][:-1] > offsets[order][1:]).any():
        raise file.refused("has chunks that overlap")
