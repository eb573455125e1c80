"""Writing a shard (docs/shard-format.md)."""

from __future__ import annotations

import math
import shutil
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from sltool.errors import ShardRefusedError, SltoolError
from sltool.files import publish, sha256
from sltool.machine import available_cpus
from sltool.shard.filters import LEVEL, pack_chunk
from sltool.shard.hdf5_file import create_hdf5
from sltool.shard.hdf5_parser import find_chunks
from sltool.shard.keys import SigningKey, key_id
from sltool.shard.manifest import USER_BLOCK, Content, Manifest, Payload, ShardId, pack
from sltool.shard.payload import Member, Rows, members
from sltool.shard.untrusted_file import UntrustedFile
from sltool.version import __version__

# Bytes that a thread compresses at a time.
BATCH_BYTES = 2**20


def write_shard(
    folder: Path,
    content: Content,
    place: ShardId,
    previous: str | None,
    features: Iterable[NDArray[Any]],
    rows: Rows,
    key: SigningKey,
) -> Manifest:
    """Write and sign `folder/SITE-SPLIT-NNNNN.h5`; the same input gives the same bytes.

    Args:
        features: blocks (n, *row_shape) in `content.dtype`, N * views rows in all.
        previous: the digest of the previous shard of the same site and split.

    Raises:
        SltoolError: the installed HDF5 library writes another structure than the format.
    """
    with publish(folder / place.name) as part:
        layout = members(content, len(rows))
        _write_payload(part, layout, features, rows)
        _check_layout(part, layout)
        manifest = Manifest(
            format=content.format,
            content=content,
            place=place,
            previous=previous,
            samples=len(rows),
            key=key_id(key.public),
            tool=f"sltool {__version__}",
            payload=Payload(
                bytes=part.stat().st_size - USER_BLOCK, sha256=sha256(part, start=USER_BLOCK)
            ),
        )
        with part.open("r+b") as file:
            file.write(pack(manifest, key.sign(manifest.to_bytes())))
    return manifest


def sign_again(path: Path, manifest: Manifest, key: SigningKey) -> None:
    """Replace a shard's manifest and signature; the payload is not changed."""
    block = pack(manifest, key.sign(manifest.to_bytes()))
    with publish(path) as part, path.open("rb") as old, part.open("wb") as new:
        old.seek(USER_BLOCK)
        new.write(block)
        shutil.copyfileobj(old, new)


def _write_payload(
    part: Path, layout: dict[str, Member], features: Iterable[NDArray[Any]], rows: Rows
) -> None:
    blocks = {"features": features, "labels": [rows.labels]}
    blocks |= {"pseudonyms": [rows.pseudonyms], "groups": [rows.groups]}
    with (
        create_hdf5(part, userblock_size=USER_BLOCK, libver=("v108", "v108")) as file,
        ThreadPoolExecutor(available_cpus()) as pool,
    ):
        datasets = {name: _create(file, name, member) for name, member in layout.items()}
        for name in ("labels", "pseudonyms", "groups", "features"):
            _fill(datasets[name], layout[name], blocks[name], pool)


def _check_layout(part: Path, layout: dict[str, Member]) -> None:
    """Raise `SltoolError` unless the reader's parser accepts every byte of the payload."""
    try:
        with UntrustedFile(part) as file:
            find_chunks(file, layout)
    except ShardRefusedError as error:
        raise SltoolError(
            f"the HDF5 library wrote a shard that no server would accept: {error.what}",
            where=part,
            expected=f"the structures of HDF5 2.0; this is {h5py.version.hdf5_version}",
            hint="install h5py 3.16 from its wheel, then encode again",
        ) from error


def _create(file: h5py.File, name: str, member: Member) -> h5py.Dataset:
    return file.create_dataset(
        name,
        shape=member.shape,
        dtype=member.dtype,
        chunks=member.chunks,
        compression="gzip",
        compression_opts=LEVEL,
        shuffle=True,
        fletcher32=True,
    )


def _fill(
    dataset: h5py.Dataset,
    member: Member,
    blocks: Iterable[NDArray[Any]],
    pool: ThreadPoolExecutor,
) -> None:
    """Write all chunks; they are compressed in threads, a few ahead of the one being written."""
    pending: deque[Future[list[bytes]]] = deque()
    row = 0
    for batch in _whole_chunks(dataset.name, member, blocks):
        pending.append(pool.submit(_pack, member, batch))
        if len(pending) > available_cpus():
            row = _put(dataset, member, row, pending.popleft().result())
    while pending:
        row = _put(dataset, member, row, pending.popleft().result())


def _pack(member: Member, batch: NDArray[Any]) -> list[bytes]:
    per_chunk = member.chunks[0]
    return [
        pack_chunk(batch[start : start + per_chunk]) for start in range(0, len(batch), per_chunk)
    ]


def _put(dataset: h5py.Dataset, member: Member, row: int, packed: list[bytes]) -> int:
    for chunk in packed:
        dataset.id.write_direct_chunk((row, *(0 for _ in member.shape[1:])), chunk)
        row += member.chunks[0]
    return row


def _whole_chunks(
    name: str, member: Member, blocks: Iterable[NDArray[Any]]
) -> Iterator[NDArray[Any]]:
    """The blocks' rows, regrouped into batches of whole chunks; the last is padded with zeros."""
    per_chunk = member.chunks[0]
    chunk_bytes = math.prod(member.chunks) * member.dtype.itemsize
    batch_rows = per_chunk * max(1, BATCH_BYTES // chunk_bytes)
    rest = np.empty((0, *member.shape[1:]), member.dtype)
    rows = 0
    for block in blocks:
        rows += len(block)
        rest = np.concatenate([rest, block.astype(member.dtype, copy=False)])
        while len(rest) >= batch_rows:
            yield rest[:batch_rows]
            rest = rest[batch_rows:]
    if rows != member.shape[0]:
        raise ValueError(f"{rows} rows of '{name}' for a shard of {member.shape[0]}")
    if len(rest):
        missing = -len(rest) % per_chunk
        yield np.concatenate([rest, np.zeros((missing, *rest.shape[1:]), rest.dtype)])
