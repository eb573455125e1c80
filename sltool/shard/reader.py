"""Reading a shard that may come from a stranger.

`verify` looks at bytes only: the signature, the enrolment, the study, and the digest of all that
HDF5 would parse. Only then may `ShardReader` open the payload, and it trusts nothing in it either.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from sltool.errors import (
    NotTrustedError,
    ShardRefusedError,
    StorageError,
    StudyMismatchError,
)
from sltool.files import sha256
from sltool.shard.keys import is_signed_by, key_id
from sltool.shard.manifest import USER_BLOCK, Content, Manifest, unpack
from sltool.shard.payload import Member, members
from sltool.shard.writer import Rows
from sltool.study import Study


def read_manifest(path: Path) -> tuple[Manifest, str]:
    """The manifest and signature in a file's user block, not trusted yet.

    Raises:
        ShardRefusedError: the file does not begin as a shard.
    """
    try:
        with path.open("rb") as file:
            return unpack(file.read(USER_BLOCK))
    except OSError as error:
        raise StorageError.of(error, path, "read") from error
    except ShardRefusedError as error:
        error.where = str(path)
        raise


def verify(path: Path, study: Study, content: Content) -> Manifest:
    """Check all that can be checked before HDF5 sees a byte.

    Raises:
        NotTrustedError: not signed with a key that the study lists for that site.
        StudyMismatchError: of another study or encoding, or not of this feature map.
        ShardRefusedError: a byte is not as signed.
    """
    manifest, signature = read_manifest(path)
    _check_signature(manifest, signature, study, path)
    _check_content(manifest.content, content.of_split(manifest.place.split), path)
    size = path.stat().st_size - USER_BLOCK
    if size != manifest.payload.bytes:
        raise ShardRefusedError(
            f"the payload has {size} bytes",
            where=path,
            expected=f"{manifest.payload.bytes}, as signed",
            hint="ask the site to ship it again",
        )
    if sha256(path, start=USER_BLOCK) != manifest.payload.sha256:
        raise ShardRefusedError(
            "the payload's digest is not the one that was signed",
            where=path,
            hint="ask the site to ship it again",
        )
    return manifest


def _check_signature(manifest: Manifest, signature: str, study: Study, path: Path) -> None:
    site = study.sites.get(manifest.place.site)
    if site is None or key_id(site.key) != manifest.key:
        raise NotTrustedError(
            f"key {manifest.key} is not enrolled for site {manifest.place.site}",
            where=path,
            hint="enter the site's public key under `sites:` in study.yaml if you trust it",
        )
    if site.revoked is not None and date.today() >= site.revoked:
        raise NotTrustedError(
            f"the key of site {manifest.place.site} was revoked on {site.revoked}", where=path
        )
    if not is_signed_by(site.key, signature, manifest.to_bytes()):
        raise NotTrustedError(
            f"the signature is not that of site {manifest.place.site}", where=path
        )


def _check_content(found: Content, expected: Content, path: Path) -> None:
    if found == expected:
        return
    ours, theirs = expected.model_dump(), found.model_dump()
    differing = next(name for name in ours if ours[name] != theirs[name])
    raise StudyMismatchError(
        f"the shard's {differing.replace('_', ' ')} is not this study's",
        where=path,
        expected=f"{ours[differing]}, not {theirs[differing]}",
        hint="encode again with this study's study.yaml and privacy-layer.safetensors",
    )


class ShardReader:
    """The payload of a verified shard.

    Raises:
        ShardRefusedError: the payload is not what the manifest says.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        try:
            self._file = h5py.File(path, "r", locking=False)
        except OSError as error:
            raise self._refused("is not an HDF5 file") from error

    def __enter__(self) -> ShardReader:
        self._check_layout()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def rows(self) -> Rows:
        """Labels, pseudonyms and groups, checked."""
        labels, pseudonyms = self._read("labels"), self._read("pseudonyms")
        content = self.manifest.content
        if content.label == "regression":
            good = bool(np.isfinite(labels).all())
        else:
            good = bool(((labels >= 0) & (labels < content.classes)).all())
        if not good:
            raise self._refused("has labels out of range")
        if len(np.unique(pseudonyms)) != len(pseudonyms):
            raise self._refused("has a pseudonym twice")
        return Rows(labels, pseudonyms, self._read("groups"))

    def features(self, rows_at_once: int) -> Iterator[NDArray[Any]]:
        """Blocks of feature maps (n, *feature_shape) in the shard's dtype, checked to be finite."""
        total = self._file["features"].shape[0]
        for start in range(0, total, rows_at_once):
            block = self._read("features", slice(start, start + rows_at_once))
            if not np.isfinite(block).all():
                raise self._refused("has feature maps that are not finite")
            yield block

    def _read(self, name: str, part: slice = slice(None)) -> NDArray[Any]:
        try:
            return np.asarray(self._file[name][part])
        except OSError as error:
            raise self._refused(f"has damaged data in '{name}'") from error

    def _check_layout(self) -> None:
        expected = members(self.manifest.content, self.manifest.samples)
        if set(self._file) != set(expected) or self._file.attrs:
            raise self._refused("has other members than features, labels, pseudonyms and groups")
        for name, member in expected.items():
            kind = self._file.get(name, getclass=True, getlink=True)
            dataset = self._file[name] if kind is h5py.HardLink else None
            if not isinstance(dataset, h5py.Dataset) or not _is_laid_out(dataset, member):
                raise self._refused(f"has a dataset '{name}' of another layout")

    def _refused(self, what: str) -> ShardRefusedError:
        return ShardRefusedError(f"the shard {what}", where=self.path)


def _is_laid_out(dataset: h5py.Dataset, member: Member) -> bool:
    return (
        dataset.shape == member.shape
        and dataset.maxshape == member.shape
        and dataset.dtype == member.dtype
        and dataset.chunks == member.chunks
        and not dataset.is_virtual
        and not dataset.external
        and not dataset.attrs
        and dataset.compression == "gzip"
        and dataset.shuffle
        and dataset.fletcher32
        and dataset.id.get_num_chunks()
        == int(
            np.prod(
                [-(-size // chunk) for size, chunk in zip(member.shape, member.chunks, strict=True)]
            )
        )
    )
