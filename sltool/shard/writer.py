"""Writing a shard (docs/reference/shard-format.md)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sltool import __version__
from sltool.files import publish, sha256
from sltool.shard.hdf5 import create_hdf5
from sltool.shard.keys import SigningKey, key_id
from sltool.shard.manifest import USER_BLOCK, Content, Manifest, Payload, Place, pack
from sltool.shard.payload import GZIP_LEVEL, Member, members


@dataclass(frozen=True)
class Rows:
    """The samples of one shard beside their features.

    Attributes:
        labels: (N,) float32 or class numbers.
        pseudonyms: (N,) bytes of 32 hex digits.
        groups: (N,) bytes: a patient's pseudonym, or patient/examination.
    """

    labels: NDArray[Any]
    pseudonyms: NDArray[np.bytes_]
    groups: NDArray[np.bytes_]

    def __len__(self) -> int:
        return len(self.labels)


def write_shard(
    folder: Path,
    content: Content,
    place: Place,
    previous: str | None,
    features: Iterable[NDArray[Any]],
    rows: Rows,
    key: SigningKey,
) -> Manifest:
    """Write and sign `folder/SITE-SPLIT-NNNNN.h5`; same input, same bytes.

    Args:
        features: blocks (n, *feature_shape) in `content.dtype`, N * views rows together.
        previous: the digest of the shard before this one of the same site and split.
    """
    with publish(folder / place.name) as part:
        _write_payload(part, members(content, len(rows)), features, rows)
        manifest = Manifest(
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


def _write_payload(
    part: Path, layout: dict[str, Member], features: Iterable[NDArray[Any]], rows: Rows
) -> None:
    with create_hdf5(part, userblock_size=USER_BLOCK, libver=("v108", "v108")) as file:
        for name, member in layout.items():
            file.create_dataset(
                name,
                shape=member.shape,
                dtype=member.dtype,
                chunks=member.chunks,
                compression="gzip",
                compression_opts=GZIP_LEVEL,
                shuffle=True,
                fletcher32=True,
            )
        file["labels"][:] = rows.labels
        file["pseudonyms"][:] = rows.pseudonyms
        file["groups"][:] = rows.groups
        done = 0
        for block in features:
            file["features"][done : done + len(block)] = block
            done += len(block)
        if done != layout["features"].shape[0]:
            raise ValueError(f"{done} feature rows for a shard of {layout['features'].shape[0]}")
