"""Shards made with plain h5py and a site's real key, good and hostile, for the tests."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from sltool.models.base import feature_shape
from sltool.shard.filters import fletcher32
from sltool.shard.keys import SigningKey, key_id
from sltool.shard.manifest import USER_BLOCK, Content, Manifest, Payload, ShardId, pack
from sltool.study.layout import StudyFolder
from sltool.study.schema import Study
from sltool.study.study_file import load_study

Build = Callable[[h5py.File, dict[str, np.ndarray[Any, Any]]], None]


@dataclass
class Forge:
    """A study's folder with the key of every site."""

    folder: StudyFolder
    study: Study = field(init=False)
    content: Content = field(init=False)

    def __post_init__(self) -> None:
        self.study = load_study(self.folder)
        digest = self.study.encoding_digest(self.folder.privacy_layer)
        self.content = Content.from_study(self.study, digest, feature_shape(self.study))

    def key(self, site: str) -> SigningKey:
        return SigningKey.load(self.folder.site(site).key)

    def columns(self, samples: int = 20, seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
        """Plausible data for a shard."""
        rng = np.random.default_rng(seed)
        hexes = [rng.bytes(16).hex().encode() for _ in range(2 * samples)]
        shape = (samples, *self.content.feature_shape)
        return {
            "features": rng.normal(0.3, 0.2, shape).astype(self.content.dtype),
            "labels": self.labels(rng, samples),
            "pseudonyms": np.array(hexes[:samples], "S32"),
            "groups": np.array(hexes[samples:], "S65"),
        }

    def labels(self, rng: np.random.Generator, samples: int) -> np.ndarray[Any, Any]:
        if self.content.label == "regression":
            return rng.normal(120, 30, samples).astype(np.float32)
        return np.arange(samples, dtype=np.int32) % self.content.classes

    def shard(
        self,
        path: Path,
        build: Build | None = None,
        *,
        columns: dict[str, np.ndarray[Any, Any]] | None = None,
        libver: Any = ("v108", "v108"),
        **signed: Any,
    ) -> Path:
        """Write a payload with `build` and `sign` it, whatever its content."""
        columns = columns or self.columns()
        with h5py.File(path, "w", userblock_size=USER_BLOCK, libver=libver) as file:
            (build or write_good)(file, columns)
        self.sign(path, len(columns["labels"]), **signed)
        return path

    def sign(
        self,
        path: Path,
        samples: int,
        site: str = "A",
        split: str = "train",
        sequence: int = 5,
        signer: str | None = None,
        claims: dict[str, Any] | None = None,
        content: dict[str, Any] | None = None,
    ) -> None:
        """Put a signed manifest in front of the payload in the file.

        Args:
            claims, content: fields of the manifest to override.
        """
        payload = path.read_bytes()[USER_BLOCK:]
        key = self.key(signer or site)
        fields = {
            "content": self.content.model_copy(update=content or {}),
            "place": ShardId(site=site, split=split, sequence=sequence),  # type: ignore[arg-type]
            "previous": None if sequence == 0 else "0" * 64,
            "samples": samples,
            "key": key_id(key.public),
            "tool": "forge",
            "payload": Payload(bytes=len(payload), sha256=hashlib.sha256(payload).hexdigest()),
        }
        # `model_construct` checks nothing: a hostile site can claim what it likes.
        manifest = Manifest.model_construct(format=1, **{**fields, **(claims or {})})
        with path.open("r+b") as file:
            file.write(pack(manifest, key.sign(manifest.to_bytes())))


def create(file: h5py.File, name: str, data: np.ndarray[Any, Any], **options: Any) -> h5py.Dataset:
    """One dataset as docs/shard-format.md specifies; `options` override."""
    rows = {"features": max(1, 65536 // (data[0].size * data.itemsize))}
    if name == "features" and data.ndim == 4:
        rows = {"features": 8}
    per_chunk = min(len(data), rows.get(name, 65536 // data.itemsize))
    asked = {
        "shape": data.shape,
        "dtype": data.dtype,
        "chunks": (per_chunk, *data.shape[1:]),
        "compression": "gzip",
        "compression_opts": 1,
        "shuffle": True,
        "fletcher32": True,
    }
    return file.create_dataset(name, **{**asked, **options})


def write_good(file: h5py.File, columns: dict[str, np.ndarray[Any, Any]]) -> None:
    for name, data in columns.items():
        create(file, name, data)[...] = data


def but(**changed: Callable[[h5py.File, np.ndarray[Any, Any]], None]) -> Build:
    """A builder that writes all datasets correctly except these."""

    def build(file: h5py.File, columns: dict[str, np.ndarray[Any, Any]]) -> None:
        for name, data in columns.items():
            if name in changed:
                changed[name](file, data)
            else:
                create(file, name, data)[...] = data

    return build


def stored_chunk(plain: bytes) -> bytes:
    """A chunk of these (shuffled) bytes as the filters would store it."""
    packed = zlib.compress(plain, 1)
    return packed + struct.pack("<I", fletcher32(packed))
