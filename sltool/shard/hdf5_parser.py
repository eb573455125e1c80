"""Where a shard's chunks lie: a strict parser of the few HDF5 structures that a shard may have.

The HDF5 library is "not designed to handle maliciously crafted files safely", so it never opens a
shard that came from outside. This parser knows superblock version 2, version 2 object headers,
hard links, fixed dtypes, the three filters and the version 1 B-tree of chunks, as libver 'v108'
writes them (docs/shard-format.md), and refuses everything else: it has no code that could
follow a link, open another file, load a plug-in or decompress. It accounts for every byte: what is
neither an address, a chunk nor the place and size of one has one legal value. Specification: "HDF5
File Format Specification Version 2.0", sections II.A (superblock), III.A.1 (B-tree), IV.A (object
headers).
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sltool.shard.filters import CHECKSUM_BYTES, OVERHEAD_BYTES
from sltool.shard.hdf5_headers import (
    ADDRESS_BYTES,
    UNDEFINED,
    Form,
    dataset_header,
    group_header,
    superblock,
)
from sltool.shard.manifest import USER_BLOCK
from sltool.shard.payload import Member
from sltool.shard.untrusted_file import UntrustedFile

NODE_ENTRIES = 64
NODE_LEVELS = 8
GAP_BLOCK = 2**20


@dataclass(frozen=True)
class Chunks:
    """The chunks of one dataset in the order of their rows.

    Attributes:
        offsets: (n,) int64, where each begins in the file.
        sizes: (n,) int64, bytes in the file.
    """

    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]


def find_chunks(file: UntrustedFile, layout: dict[str, Member]) -> dict[str, Chunks]:
    """Where the chunks of each dataset lie, if the payload has exactly this layout.

    Raises:
        ShardRefusedError: anything is not as the format says.
    """
    account = _Account(file)
    (root,) = account.form(0, superblock(file.size), "has no HDF5 superblock that fits it")
    headers = account.form(
        root, group_header(layout), f"has other members than exactly {', '.join(layout)}"
    )
    chunks = {}
    for (name, member), header in zip(layout.items(), headers, strict=True):
        what = f"has a dataset '{name}' of another layout"
        (index,) = account.form(header, dataset_header(member), what)
        chunks[name] = _chunks(account, name, index, member)
    account.close()
    return chunks


class _Account:
    """Which bytes of the payload belong to what: none to two things, and the rest are zeros."""

    def __init__(self, file: UntrustedFile) -> None:
        self.file = file
        self.size = file.size - USER_BLOCK
        self._starts: list[NDArray[np.int64]] = []
        self._sizes: list[NDArray[np.int64]] = []

    def add(self, starts: NDArray[np.int64], sizes: NDArray[np.int64]) -> None:
        """Extents that belong to something."""
        self._starts.append(starts)
        self._sizes.append(sizes)

    def take(self, address: int, size: int) -> bytes:
        """`size` bytes at an address of the payload, which belong to one structure."""
        if address + size > self.size:
            raise self.file.refused("points behind its own end")
        found = self.file.read(USER_BLOCK + address, size)
        if len(found) != size:
            raise self.file.refused("was cut off while it was read")
        self.add(np.array([address]), np.array([size]))
        return found

    def form(self, address: int, form: Form, otherwise: str) -> list[int]:
        """The addresses in a structure of which all else is determined."""
        addresses = form.addresses(self.take(address, form.size))
        if addresses is None:
            raise self.file.refused(
                otherwise,
                expected="the bytes that docs/shard-format.md names; no attribute, no time, "
                "no link but these, no continuation",
            )
        return addresses

    def close(self) -> None:
        """Refuse overlaps, and anything but zeros between the extents."""
        starts, sizes = np.concatenate(self._starts), np.concatenate(self._sizes)
        order = np.argsort(starts)
        starts, ends = starts[order], (starts + sizes)[order]
        before, after = np.append(0, ends), np.append(starts, self.size)
        if (before > after).any():
            raise self.file.refused("has parts that overlap")
        for gap in np.flatnonzero(before < after).tolist():
            self._check_zeros(int(before[gap]), int(after[gap]))

    def _check_zeros(self, start: int, end: int) -> None:
        for place in range(start, end, GAP_BLOCK):
            size = min(GAP_BLOCK, end - place)
            if self.file.read(USER_BLOCK + place, size) != bytes(size):
                raise self.file.refused(
                    f"has bytes that belong to nothing, {start} to {end - 1} of its payload",
                    expected="zeros",
                )


def _chunks(account: _Account, name: str, index: int, member: Member) -> Chunks:
    file = account.file
    expected = -(-member.shape[0] // member.chunks[0])
    entries = _entries(account, index, member, expected)
    if len(entries) != expected:
        raise file.refused(f"declares {expected} chunks of '{name}' and has {len(entries)}")
    places = entries["key"]["place"]
    rows = np.arange(expected, dtype=np.uint64) * np.uint64(member.chunks[0])
    if (places[:, 0] != rows).any() or places[:, 1:].any():
        raise file.refused(f"lacks chunks of '{name}'")
    if entries["key"]["mask"].any():
        raise file.refused(f"has chunks of '{name}' that skip a filter")
    plain = math.prod(member.chunks) * member.dtype.itemsize
    sizes, starts = entries["key"]["size"].astype(np.int64), entries["child"]
    limit = np.uint64(account.size)
    if (
        (sizes <= CHECKSUM_BYTES).any()
        or (sizes > plain + plain // 100 + OVERHEAD_BYTES).any()
        or (starts >= limit).any()
        or (starts + entries["key"]["size"] > limit).any()
    ):
        raise file.refused(f"has chunks of '{name}' with an impossible size or place")
    account.add(starts.astype(np.int64), sizes)
    return Chunks(starts.astype(np.int64) + USER_BLOCK, sizes)


def _entries(account: _Account, index: int, member: Member, expected: int) -> NDArray[Any]:
    """The entries (key, child) of the leaves of a version 1 B-tree of chunks, in its order.

    A key stands before each child and one after the last. What the nodes say twice has to agree:
    keys at the border of two nodes, keys above the first ones of a node, pointers to siblings.
    """
    key = np.dtype([("size", "<u4"), ("mask", "<u4"), ("place", "<u8", (len(member.shape) + 1,))])
    entry = np.dtype([("key", key), ("child", "<u8")])
    end = np.zeros(1, key)
    # What HDF5 leaves there when chunks are appended: of every second one it takes no notice.
    last = (expected - 1 | 1) * member.chunks[0]
    end["place"] = [last, *member.chunks[1:], member.dtype.itemsize]
    level = _level(account, [index], entry, end.tobytes())
    while level.height:
        children = level.entries["child"].tolist()
        # No node is empty, so a level has at most as many as there are chunks.
        if len(children) > expected:
            raise account.file.refused("has a chunk index that does not end")
        below = _level(account, children, entry, end.tobytes())
        if below.height != level.height - 1 or level.entries["key"].tobytes() != below.firsts:
            raise account.file.refused("has a chunk index that does not agree with itself")
        level = below
    return level.entries


@dataclass(frozen=True)
class _Level:
    """The nodes of a B-tree that are equally far from its leaves: their entries in order.

    Attributes:
        firsts: the first key of each node.
    """

    height: int
    entries: NDArray[Any]
    firsts: bytes


def _level(account: _Account, addresses: list[int], entry: np.dtype[Any], end: bytes) -> _Level:
    size = 24 + (NODE_ENTRIES + 1) * entry.itemsize - ADDRESS_BYTES
    height, parts, firsts, lasts = None, [], [], []
    for place, address in enumerate(addresses):
        node = account.take(address, size)
        signature, kind, own, used, left, right = struct.unpack_from("<4s2BH2Q", node)
        height = own if height is None else height
        siblings = (
            addresses[place - 1] if place else UNDEFINED,
            addresses[place + 1] if place + 1 < len(addresses) else UNDEFINED,
        )
        if (
            (signature, kind, own, left, right) != (b"TREE", 1, height, *siblings)
            or not 0 < used <= NODE_ENTRIES
            or height >= NODE_LEVELS
        ):
            raise account.file.refused("has a chunk index that the format does not allow")
        entries = np.frombuffer(node, entry, used, 24)
        behind = 24 + entries.nbytes + entry["key"].itemsize
        if any(node[behind:]):
            raise account.file.refused("has bytes in unused places of a chunk index")
        parts.append(entries)
        firsts.append(entries["key"][0].tobytes())
        lasts.append(node[24 + entries.nbytes : behind])
    if lasts != [*firsts[1:], end]:
        raise account.file.refused("has a chunk index that does not agree with itself")
    return _Level(int(height or 0), np.concatenate(parts), b"".join(firsts))
