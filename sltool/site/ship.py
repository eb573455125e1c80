"""`ship`: copy finished shards from the outbox to an inbox, a disk, a bucket or an SFTP server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sltool.files import remove, sha256, write_json
from sltool.progress import Progress
from sltool.remote import DiskFolder, RemoteFolder, open_remote
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
        destination: a folder, or a URL as `sltool.remote.open_remote` takes it.
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
    before = record.get(destination, {})
    digests = {path: sha256(path) for path in [*withdrawals, *shards]}
    known = [sent for files in record.values() for sent in files.values()]
    if only_new:
        old = {sent["outbox"] for sent in known}
        digests = {path: digest for path, digest in digests.items() if digest not in old}
    with open_remote(destination) as folder:
        there = _Destination(folder, known, before)
        todo = [
            path for path, digest in digests.items() if force or not there.has(path.name, digest)
        ]
        if todo:
            # Before the first file leaves: what left and is not logged must not exist.
            files = {path.name: digests[path] for path in todo}
            log.append(site, "shipping", destination=destination, files=files)
        copies = _send(site, folder, todo, digests, recipient, progress)
    if todo:
        travelled = {name: file["travelled"] for name, file in copies.items()}
        log.append(site, "shipped", destination=destination, files=travelled)
    write_json(site.shipped, {**record, destination: {**before, **copies}})
    size = sum(path.stat().st_size for path in shards)
    if with_shards and is_newer(site.private, site.encoded):
        progress.note(
            f"site {site.name} was made anew or has grown since its samples were encoded: run "
            f"`sltool client-encode --site {site.name}`, and ship again"
        )
    return ShippingResult(site.name, len(shards), size, destination, not todo, len(todo))


def _send(
    site: SiteFolder,
    folder: RemoteFolder,
    todo: list[Path],
    digests: dict[Path, str],
    recipient: str | None,
    progress: Progress,
) -> dict[str, Sent]:
    """Copy the files; what was sent, by the name in the outbox."""
    sent = {}
    with progress.bar(f"ship {site.name}", len(todo)) as advance:
        for path in todo:
            with _file_to_send(site, path, recipient) as outgoing:
                folder.put(outgoing)
                sent[path.name] = Sent(
                    outbox=digests[path],
                    travelled=sha256(outgoing),
                    bytes=outgoing.stat().st_size,
                )
            advance(1)
    return sent


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


@dataclass(frozen=True)
class _Destination:
    """Where files are shipped to.

    Attributes:
        known: everything that was ever sent, to recognise encrypted copies.
        before: what was sent to this destination, by name.
    """

    folder: RemoteFolder
    known: list[Sent]
    before: dict[str, Sent]

    def has(self, name: str, digest: str) -> bool:
        """Whether it contains the outbox's file `name` of this SHA-256, as it is or encrypted."""
        if isinstance(self.folder, DiskFolder):
            return self._on_disk(self.folder.path, name, digest)
        # Downloading files has a cost, so only their sizes are compared.
        before = self.before.get(name)
        if before is None or before["outbox"] != digest:
            return False
        return any(self.folder.size(name + suffix) == before["bytes"] for suffix in ("", AGE))

    def _on_disk(self, disk: Path, name: str, digest: str) -> bool:
        encrypted = {sent["travelled"] for sent in self.known if sent["outbox"] == digest}
        return any(
            _is(folder / name, {digest}) or _is(folder / (name + AGE), encrypted)
            for folder in (disk, *_queue_folders(disk))
        )


def _queue_folders(folder: Path) -> list[Path]:
    """If this folder is a server's inbox: the folders that its queue moves files to."""
    if folder.name != "inbox":
        return []
    return [folder.with_name("accepted"), folder.with_name("held")]


def _is(path: Path, digests: set[str]) -> bool:
    # A server that shares this folder may own files that this user cannot read. Then the shard
    # is sent again, and the queue recognises it as already accepted.
    readable = bool(digests) and os.access(path, os.R_OK) and path.is_file()
    return readable and sha256(path) in digests
