"""`ship`: copy finished shards from the outbox to the server's inbox, a disk or a bucket."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sltool.errors import StorageError
from sltool.files import copy, remove, sha256, write_json
from sltool.progress import Progress
from sltool.shard.encryption import SUFFIX as AGE
from sltool.shard.encryption import encrypt
from sltool.shard.withdrawal import SUFFIX as WITHDRAWAL
from sltool.site import log
from sltool.site.outbox import is_newer, outbox_cases, outbox_shards
from sltool.site.stage_records import Sent, ShippedRecord, read_record
from sltool.study.layout import SiteFolder


@dataclass(frozen=True)
class ShippingResult:
    """What `ship` did; `again` if the destination already had everything.

    `shards` and `bytes` are those of the outbox; `sent` counts the files that were copied now.
    """

    site: str
    shards: int
    bytes: int
    destination: str
    again: bool
    sent: int


def ship(
    site: SiteFolder,
    destination: str,
    recipient: str | None,
    progress: Progress,
    force: bool,
    only_withdrawals: bool = False,
    only_new: bool = False,
) -> ShippingResult:
    """Copy every shard and withdrawal of the outbox that `destination` does not contain yet.

    The destination itself is checked, since what was sent there once may be gone: the same path may
    now be another disk.

    Args:
        destination: a folder, or a URL that fsspec understands, such as s3://bucket/prefix.
        recipient: the server's age recipient, to encrypt for; None: do not encrypt.
        only_withdrawals: do not ship shards.
        only_new: leave out what was shipped before, wherever to.

    Raises:
        StageOrderError: nothing is encoded and nothing withdrawn.
        StorageError: the destination cannot be written.
    """
    withdrawals = sorted(site.outbox.glob(f"*{WITHDRAWAL}"))
    cases = [] if only_withdrawals else outbox_cases(site)
    alone = bool(withdrawals or cases)
    with_shards = not only_withdrawals and (not alone or site.encoded.is_file())
    shards = [*(outbox_shards(site) if with_shards else []), *cases]
    record = read_record(site.shipped, ShippedRecord) or {}
    storage = _storage(destination)
    before = record.get(destination, {})
    digests = {path: sha256(path) for path in [*withdrawals, *shards]}
    known = [sent for files in record.values() for sent in files.values()]
    if only_new:
        old = {sent["outbox"] for sent in known}
        digests = {path: digest for path, digest in digests.items() if digest not in old}
    todo = [
        path
        for path, digest in digests.items()
        if force or not storage.has(path.name, digest, known, before.get(path.name))
    ]
    sent = dict(before)
    if todo:
        # Before the first file leaves: what left and is not logged must not exist.
        files = {path.name: digests[path] for path in todo}
        log.append(site, "shipping", destination=destination, files=files)
    with progress.bar(f"ship {site.name}", len(todo)) as advance:
        for path in todo:
            with _file_to_send(site, path, recipient) as outgoing:
                storage.put(outgoing)
                sent[path.name] = Sent(
                    outbox=digests[path],
                    travelled=sha256(outgoing),
                    bytes=outgoing.stat().st_size,
                )
            advance(1)
    if todo:
        travelled = {path.name: sent[path.name]["travelled"] for path in todo}
        log.append(site, "shipped", destination=destination, files=travelled)
    write_json(site.shipped, {**record, destination: sent})
    size = sum(path.stat().st_size for path in shards)
    if with_shards and is_newer(site.private, site.encoded):
        progress.note(
            f"site {site.name} was made anew or has grown since its samples were encoded: run "
            f"`sltool client-encode --site {site.name}`, and ship again"
        )
    return ShippingResult(site.name, len(shards), size, destination, not todo, len(todo))


@contextmanager
def _file_to_send(site: SiteFolder, path: Path, recipient: str | None) -> Iterator[Path]:
    """The file itself, or a temporary encrypted copy in the site's private folder."""
    if recipient is None:
        yield path
        return
    encrypted = site.private_dir / (path.name + AGE)
    encrypt(path, encrypted, recipient)
    try:
        yield encrypted
    finally:
        remove(encrypted)


class _Storage(Protocol):
    """Where files are shipped to."""

    def put(self, path: Path) -> None:
        """Copy a file there, under its own name."""

    def has(self, name: str, digest: str, known: list[Sent], before: Sent | None) -> bool:
        """Whether the storage contains the outbox's file `name`, as it is or encrypted.

        Args:
            digest: hex SHA-256 of the file in the outbox.
            known: everything that was ever sent, to recognise encrypted copies.
            before: what was sent under this name to this destination.
        """


def _storage(destination: str) -> _Storage:
    if "://" not in destination:
        return _Disk(Path(destination))
    import fsspec
    from fsspec.implementations.local import LocalFileSystem

    with _storage_errors(destination):
        fs, prefix = fsspec.core.url_to_fs(destination)
    if isinstance(fs, LocalFileSystem):
        return _Disk(Path(prefix))
    return _Bucket(fs, prefix.rstrip("/"), destination)


@dataclass(frozen=True)
class _Disk:
    """A folder: the server's inbox, or any other."""

    folder: Path

    def put(self, path: Path) -> None:
        copy(path, self.folder / path.name)

    def has(self, name: str, digest: str, known: list[Sent], before: Sent | None) -> bool:
        encrypted = {sent["travelled"] for sent in known if sent["outbox"] == digest}
        return any(
            self._is(folder / name, {digest}) or self._is(folder / (name + AGE), encrypted)
            for folder in (self.folder, *self._queue_folders())
        )

    def _queue_folders(self) -> list[Path]:
        """If this folder is a server's inbox: the folders that its queue moves files to."""
        if self.folder.name != "inbox":
            return []
        return [self.folder.with_name("accepted"), self.folder.with_name("held")]

    @staticmethod
    def _is(path: Path, digests: set[str]) -> bool:
        # A server that shares this folder may own files that this user cannot read. Then the shard
        # is sent again, and the queue recognises it as already accepted.
        readable = bool(digests) and os.access(path, os.R_OK) and path.is_file()
        return readable and sha256(path) in digests


@dataclass(frozen=True)
class _Bucket:
    """Storage behind a URL. Downloading files has a cost, so only their sizes are compared."""

    fs: Any
    prefix: str
    url: str

    def put(self, path: Path) -> None:
        with _storage_errors(f"{self.url}/{path.name}"):
            self.fs.put_file(str(path), f"{self.prefix}/{path.name}")

    def has(self, name: str, digest: str, known: list[Sent], before: Sent | None) -> bool:
        if before is None or before["outbox"] != digest:
            return False
        return any(self._size(f"{name}{suffix}") == before["bytes"] for suffix in ("", AGE))

    def _size(self, name: str) -> int | None:
        with _storage_errors(f"{self.url}/{name}"):
            try:
                size: int | None = self.fs.info(f"{self.prefix}/{name}")["size"]
            except FileNotFoundError:
                return None
        return size


@contextmanager
def _storage_errors(where: str) -> Iterator[None]:
    """Turn the errors of fsspec and its file systems into `StorageError`."""
    try:
        yield
    except ImportError as error:
        raise StorageError(
            f"this kind of destination needs another package: {error}",
            where=where,
            hint="for s3:// install sltool[s3]",
        ) from error
    except (OSError, ValueError) as error:
        raise StorageError(
            f"the destination cannot be reached: {error}",
            where=where,
            hint="check the address and the credentials, then ship again",
        ) from error
