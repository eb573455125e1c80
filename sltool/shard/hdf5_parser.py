"""Locating a shard's chunks: a strict parser of the few HDF5 structures that a shard may have.

The HDF5 library is "not designed to handle maliciously crafted files safely", so it never opens a
received shard. This parser knows superblock version 2, version 2 object headers,
hard links, fixed dtypes, the three filters and the version 1 B-tree of chunks, as libver 'v108'
writes them (docs/shard-format.md), and refuses everything else: it has no code that could
follow a link, open another file, load a plug-in or decompress. It checks every byte: all but
addresses, chunks and the offsets and sizes of chunks has a single legal value. Specification: "HDF5
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
        offsets: (n,) int64, the position of each in the file, in bytes.
        sizes: (n,) int64, the size of each in the file, in bytes.
    """

    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]


def find_chunks(file: UntrustedFile, layout: dict[str, Member]) -> dict[str, Chunks]:
    """The chunks of each dataset of a payload with exactly this layout.

    Raises:
        ShardRefusedError: the payload deviates from the format.
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
    """Records which bytes of the payload are used: no byte twice, and unused bytes are zero."""

    def __init__(self, file: UntrustedFile) -> None:
        self.file = file
        self.size = file.size - USER_BLOCK
        self._starts: list[NDArray[np.int64]] = []
        self._sizes: list[NDArray[np.int64]] = []

    def add(self, starts: NDArray[np.int64], sizes: NDArray[np.int64]) -> None:
        """Record extents as used: (n,) offsets in the payload and sizes, in bytes."""
        self._starts.append(starts)
        self._sizes.append(sizes)

    def take(self, address: int, size: int) -> bytes:
        """Read a structure: `size` bytes at an address of the payload, recorded as used."""
        if address + size > self.size:
            raise self.file.refused("points beyond its own end")
        found = self.file.read(USER_BLOCK + address, size)
        if len(found) != size:
            raise self.file.refused("was truncated while it was read")
        self.add(np.array([address]), np.array([size]))
        return found

    def form(self, address: int, form: Form, problem: str) -> list[int]:
        """The addresses in the structure of this form; `problem` is the error for another one."""
        addresses = form.addresses(self.take(address, form.size))
        if addresses is None:
            raise self.file.refused(
                problem,
                expected="the bytes that docs/shard-format.md names; no attribute, no time, "
                "no other link, no continuation",
            )
        return addresses

    def close(self) -> None:
        """Refuse overlapping extents, and bytes other than zero between them."""
        starts, sizes = np.concatenate(self._starts), np.concatenate(self._sizes)
        order = np.argsort(starts)
        starts, ends = starts[order], (starts + sizes)[order]
        gap_starts, gap_ends = np.append(0, ends), np.append(starts, self.size)
        if (gap_starts > gap_ends).any():
            raise self.file.refused("has parts that overlap")
        for gap in np.flatnonzero(gap_starts < gap_ends).tolist():
            self._check_zeros(int(gap_starts[gap]), int(gap_ends[gap]))

    def _check_zeros(self, start: int, end: int) -> None:
        for offset in range(start, end, GAP_BLOCK):
            size = min(GAP_BLOCK, end - offset)
            if self.file.read(USER_BLOCK + offset, size) != bytes(size):
                raise self.file.refused(
                    f"has unused bytes that are not zero, {start} to {end - 1} of its payload",
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
        raise file.refused(f"has chunks of '{name}' with an impossible size or offset")
    account.add(starts.astype(np.int64), sizes)
    return Chunks(starts.astype(np.int64) + USER_BLOCK, sizes)


def _entries(account: _Account, index: int, member: Member, expected: int) -> NDArray[Any]:
    """The entries (key, child) of the leaves of a version 1 B-tree of chunks, in order.

    A key precedes each child, and another follows the last child. Redundant values of the nodes
    have to agree: the keys at the border of two nodes, the parent's key and a node's first key, and
    the pointers to siblings.
    """
    key = np.dtype([("size", "<u4"), ("mask", "<u4"), ("place", "<u8", (len(member.shape) + 1,))])
    entry = np.dtype([("key", key), ("child", "<u8")])
    end = np.zeros(1, key)
    # The last key that HDF5 leaves when chunks are appended; it updates it for every second chunk.
    last = (expected - 1 | 1) * member.chunks[0]
    end["place"] = [last, *member.chunks[1:], member.dtype.itemsize]
    level = _level(account, [index], entry, end.tobytes())
    while level.height:
        children = level.entries["child"].tolist()
        # No node is empty, so a level has at most as many nodes as there are chunks.
        if len(children) > expected:
            raise account.file.refused("has a chunk index that does not end")
        children_level = _level(account, children, entry, end.tobytes())
        keys = level.entries["key"].tobytes()
        if children_level.height != level.height - 1 or keys != children_level.firsts:
            raise account.file.refused("has an inconsistent chunk index")
        level = children_level
    return level.entries


@dataclass(frozen=True)
class _Level:
    """The nodes of a level of a B-tree.

    Attributes:
        height: the levels below.
        entries: the nodes' entries in order.
        firsts: the first key of each node, concatenated.
    """

    height: int
    entries: NDArray[Any]
    firsts: bytes


def _level(account: _Account, addresses: list[int], entry: np.dtype[Any], end: bytes) -> _Level:
    size = 24 + (NODE_ENTRIES + 1) * entry.itemsize - ADDRESS_BYTES
    height, parts, firsts, lasts = None, [], [], []
    for index, address in enumerate(addresses):
        node = account.take(address, size)
        signature, kind, own_height, used, left, right = struct.unpack_from("<4s2BH2Q", node)
        height = own_height if height is None else height
        siblings = (
            addresses[index - 1] if index else UNDEFINED,
            addresses[index + 1] if index + 1 < len(addresses) else UNDEFINED,
        )
        if (
            (signature, kind, own_height, left, right) != (b"TREE", 1, height, *siblings)
            or not 0 < used <= NODE_ENTRIES
            or height >= NODE_LEVELS
        ):
            raise account.file.refused("has a chunk index that the format does not allow")
        entries = np.frombuffer(node, entry, used, 24)
        end_of_keys = 24 + entries.nbytes + entry["key"].itemsize
        if any(node[end_of_keys:]):
            raise account.file.refused(
                "has bytes that are not zero after the last key of a chunk index"
            )
        parts.append(entries)
        firsts.append(entries["key"][0].tobytes())
        lasts.append(node[24 + entries.nbytes : end_of_keys])
    if lasts != [*firsts[1:], end]:
        raise account.file.refused("has an inconsistent chunk index")
    return _Level(int(height or 0), np.concatenate(parts), b"".join(firsts))
