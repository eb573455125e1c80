"""Reading a shard that may come from an untrusted sender.

`open_shard` looks at bytes only: the signature, the enrolment, the study, and the digest of the
whole payload. Only then is the payload parsed, by our own parser (`hdf5_parser.py`), from the
same open file. Its content is not trusted either: an enrolled site may be faulty or malicious.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sltool.errors import NotTrustedError, ShardRefusedError, StudyMismatchError
from sltool.machine import available_cpus
from sltool.shard.filters import unpack_chunk
from sltool.shard.hdf5_parser import Chunks, find_chunks
from sltool.shard.keys import is_signed_by, key_id
from sltool.shard.manifest import PREDICTION, USER_BLOCK, Content, Manifest, unpack
from sltool.shard.packing import has_padding
from sltool.shard.payload import ID_BYTES, Member, Rows, members
from sltool.shard.untrusted_file import UntrustedFile
from sltool.study.schema import Study

HEX = np.isin(np.arange(256), np.frombuffer(b"0123456789abcdef", np.uint8))
EXPONENTS = {
    "float16": (np.uint16, np.uint16(0x7C00)),
    "float32": (np.uint32, np.uint32(0x7F800000)),
}


class ShardReader:
    """The payload of a shard whose manifest was read from the same open file.

    Raises:
        ShardRefusedError: the payload contradicts the manifest.
    """

    def __init__(self, file: UntrustedFile, manifest: Manifest) -> None:
        self.path = file.path
        self.manifest = manifest
        self._file = file
        self._members = members(manifest.content, manifest.samples)
        self._chunks = find_chunks(file, self._members)

    def rows(self) -> Rows:
        """Labels, pseudonyms and groups, checked."""
        labels, pseudonyms = self._column("labels"), self._column("pseudonyms")
        groups = self._column("groups")
        content = self.manifest.content
        if content.label == "regression":
            valid = bool(np.isfinite(labels).all())
        else:
            valid = bool(((labels >= 0) & (labels < content.classes)).all())
        if not valid:
            raise self._file.refused("has labels out of range")
        if self.manifest.place.split == PREDICTION and labels.any():
            raise self._file.refused("has labels, though its cases are to be predicted")
        if not _are_ids(pseudonyms).all():
            raise self._file.refused("has pseudonyms that are not 32 hex digits")
        if not _are_groups(groups).all():
            raise self._file.refused("has groups that are not pseudonyms")
        if len(np.unique(pseudonyms)) != len(pseudonyms):
            raise self._file.refused("repeats a pseudonym")
        return Rows(labels, pseudonyms, groups)

    def features(self, rows_at_once: int) -> Iterator[NDArray[Any]]:
        """Blocks of rows (n, *row_shape) in the shard's dtype: finite, or packed without padding.

        The blocks are decompressed in threads, a few ahead of the one that is yielded.

        Args:
            rows_at_once: approximate rows of a block, which has one or more whole chunks.
        """
        member, chunks = self._members["features"], self._chunks["features"]
        step = max(1, rows_at_once // member.chunks[0])
        starts = iter(range(0, len(chunks.offsets), step))
        pending: deque[Future[NDArray[Any]]] = deque()
        with ThreadPoolExecutor(available_cpus()) as pool:
            try:
                for start in starts:
                    part = slice(start, start + step)
                    pending.append(pool.submit(self._checked_block, member, chunks, part))
                    if len(pending) > available_cpus():
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                pool.shutdown(cancel_futures=True)
        self._file.check_unchanged()

    def _checked_block(self, member: Member, chunks: Chunks, part: slice) -> NDArray[Any]:
        block, content = self._block("features", member, chunks, part), self.manifest.content
        if content.scale is None:
            if not _are_finite(block):
                raise self._file.refused("has feature maps that are not finite")
        elif has_padding(block, content.scale.bits, math.prod(content.feature_shape)):
            raise self._file.refused("has unused bits that are not zero after a feature map")
        return block

    def _column(self, name: str) -> NDArray[Any]:
        return self._block(name, self._members[name], self._chunks[name], slice(None))

    def _block(self, name: str, member: Member, chunks: Chunks, part: slice) -> NDArray[Any]:
        """The rows of some chunks."""
        per_chunk, count = member.chunks[0], math.prod(member.chunks)
        offsets = chunks.offsets[part].tolist()
        sizes = chunks.sizes[part].tolist()
        first = (part.start or 0) * per_chunk
        rows = min(len(offsets) * per_chunk, member.shape[0] - first)
        block = np.empty((rows, *member.shape[1:]), member.dtype)
        for index, (offset, size) in enumerate(zip(offsets, sizes, strict=True)):
            try:
                chunk = unpack_chunk(self._file.read(offset, size), count, member.dtype)
            except ValueError as error:
                raise self._file.refused(f"has damaged data in '{name}': {error}") from error
            target = block[index * per_chunk : (index + 1) * per_chunk]
            values = chunk.reshape(member.chunks)
            if values[len(target) :].view(np.uint8).any():
                raise self._file.refused(f"has values after the last row of '{name}'")
            target[...] = values[: len(target)]
        return block


@contextmanager
def open_shard(
    path: Path, study: Study, content: Content, *, arriving: bool = True
) -> Iterator[ShardReader]:
    """Verify a shard and yield its reader; both see the same bytes of one open file.

    Args:
        arriving: False for a shard that was accepted before: its key may have been revoked since.

    Raises:
        NotTrustedError: it is not signed with a key that the study lists for that site.
        StudyMismatchError: it is of another study, encoding or feature map.
        ShardRefusedError: a byte differs from what was signed, or the payload breaks the format.
    """
    with UntrustedFile(path) as file:
        yield ShardReader(file, _verify(file, study, content, arriving))


def verify(path: Path, study: Study, content: Content, *, arriving: bool = True) -> Manifest:
    """The checks of `open_shard` before the payload is parsed, with the same errors."""
    with UntrustedFile(path) as file:
        return _verify(file, study, content, arriving)


def read_manifest(path: Path) -> tuple[Manifest, str]:
    """The manifest and signature in a file's user block, not trusted yet.

    Raises:
        ShardRefusedError: the file does not begin like a shard.
    """
    with UntrustedFile(path) as file:
        return manifest_of(file)


def _verify(file: UntrustedFile, study: Study, content: Content, arriving: bool) -> Manifest:
    manifest, signature = manifest_of(file)
    place = manifest.place
    check_signer(
        study, place.site, manifest.key, signature, manifest.to_bytes(), file.path, arriving
    )
    if arriving and study.sites[place.site].has_left:
        raise NotTrustedError(
            f"site {place.site} left the study on {study.sites[place.site].left}",
            where=file.path,
            hint=f"remove sites.{place.site}.left from study.yaml if it takes part again",
        )
    check_content(manifest.content, content.for_split(place.split), file.path)
    check_digest(file, manifest)
    return manifest


def manifest_of(file: UntrustedFile) -> tuple[Manifest, str]:
    """As `read_manifest`, of an open file."""
    try:
        return unpack(file.read(0, USER_BLOCK))
    except ShardRefusedError as error:
        error.where = str(file.path)
        raise


def check_signer(
    study: Study,
    site: str,
    key: str,
    signature: str,
    message: bytes,
    path: Path,
    arriving: bool = True,
) -> None:
    """Raise `NotTrustedError` unless `message` is signed with a key that is enrolled for `site`."""
    listed = study.sites.get(site)
    enrolled = {key_id(entry.key): entry for entry in (listed, *listed.earlier)} if listed else {}
    if key not in enrolled:
        raise NotTrustedError(
            f"key {key} is not enrolled for site {site}",
            where=path,
            hint="add the site's public key under `sites:` in study.yaml if you trust it",
        )
    revoked = enrolled[key].revoked
    if arriving and revoked is not None and date.today() >= revoked:
        raise NotTrustedError(f"the key of site {site} was revoked on {revoked}", where=path)
    if not is_signed_by(enrolled[key].key, signature, message):
        raise NotTrustedError(f"the signature is not that of site {site}", where=path)


def check_content(found: Content, expected: Content, path: Path) -> None:
    """Raise `StudyMismatchError` unless a shard's content is that of the study."""
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


def check_digest(file: UntrustedFile, manifest: Manifest) -> None:
    """Raise `ShardRefusedError` unless every byte of the payload is as signed."""
    size = file.size - USER_BLOCK
    if size != manifest.payload.bytes:
        what, expected = f"has a payload of {size} bytes", f"{manifest.payload.bytes}, as signed"
    elif file.sha256(USER_BLOCK) != manifest.payload.sha256:
        what, expected = (
            "was changed after it was signed: its digest differs",
            manifest.payload.sha256,
        )
    else:
        return
    error = file.refused(what, expected=expected)
    error.hint = "ask the site to ship it again"
    raise error


def _are_finite(block: NDArray[Any]) -> bool:
    """Whether no exponent is all ones; many times as fast as `np.isfinite` on float16."""
    bits, exponent = EXPONENTS[block.dtype.name]
    return not ((block.view(bits) & exponent) == exponent).any()


def _are_ids(column: NDArray[np.bytes_]) -> NDArray[np.bool_]:
    """Which rows are exactly `ID_BYTES` hex digits."""
    letters = column.view(np.uint8).reshape(len(column), -1)
    return np.asarray(HEX[letters].all(axis=1))


def _are_groups(column: NDArray[np.bytes_]) -> NDArray[np.bool_]:
    """Which rows are PATIENT or PATIENT/EXAMINATION, each of `ID_BYTES` hex digits."""
    letters = column.view(np.uint8).reshape(len(column), -1)
    patient, rest = letters[:, :ID_BYTES], letters[:, ID_BYTES:]
    slash, examination = rest[:, 0], rest[:, 1:]
    both = (slash == ord("/")) & HEX[examination].all(axis=1)
    return np.asarray(HEX[patient].all(axis=1) & (both | ~rest.any(axis=1)))
