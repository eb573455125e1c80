"""`ship`: copy finished shards from the outbox to the server's inbox, a disk or a bucket."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sltool.errors import StorageError
from sltool.files import publish, remove, sha256, write_json
from sltool.layout import SiteFolder
from sltool.progress import Progress
from sltool.shard.road import SUFFIX as AGE
from sltool.shard.road import encrypt
from sltool.shard.withdrawal import SUFFIX as WITHDRAWAL
from sltool.site.outbox import outbox_shards
from sltool.site.records import read_record


@dataclass(frozen=True)
class Shipped:
    """What `ship` did; `again` where everything had been shipped there before."""

    site: str
    shards: int
    bytes: int
    destination: str
    again: bool


def ship(
    site: SiteFolder, destination: str, recipient: str | None, progress: Progress, force: bool
) -> Shipped:
    """Copy every shard and withdrawal of the outbox that was not shipped to `destination` before.

    Args:
        destination: a folder, or a URL that fsspec understands, such as s3://bucket/prefix.
        recipient: the server's age recipient, to encrypt for; None: files travel readable.

    Raises:
        StageOrderError: nothing is encoded and nothing withdrawn.
        StorageError: the destination cannot be written.
    """
    withdrawals = sorted(site.outbox.glob(f"*{WITHDRAWAL}"))
    shards = outbox_shards(site) if not withdrawals or site.encoded.is_file() else []
    record = read_record(site.shipped)
    before: dict[str, str] = {} if force else record.get(destination, {})
    digests = {path.name: sha256(path) for path in [*withdrawals, *shards]}
    todo = [one for one in [*withdrawals, *shards] if before.get(one.name) != digests[one.name]]
    with progress.bar(f"ship {site.name}", len(todo)) as advance:
        for path in todo:
            with _travelling(site, path, recipient) as travelling:
                _send(travelling, destination)
            advance(1)
    write_json(site.shipped, {**record, destination: digests})
    size = sum(path.stat().st_size for path in shards)
    return Shipped(site.name, len(shards), size, destination, again=not todo)


@contextmanager
def _travelling(site: SiteFolder, path: Path, recipient: str | None) -> Iterator[Path]:
    """The file as it travels: itself, or encrypted in the site's own folder for a while."""
    if recipient is None:
        yield path
        return
    encrypted = site.private_dir / (path.name + AGE)
    encrypt(path, encrypted, recipient)
    try:
        yield encrypted
    finally:
        remove(encrypted)


def _send(path: Path, destination: str) -> None:
    if "://" in destination:
        _upload(path, destination)
    else:
        _copy(path, Path(destination))


def _copy(path: Path, folder: Path) -> None:
    with publish(folder / path.name) as part:
        shutil.copyfile(path, part)


def _upload(path: Path, destination: str) -> None:
    import fsspec

    try:
        fs, prefix = fsspec.core.url_to_fs(destination)
        fs.put_file(str(path), f"{prefix.rstrip('/')}/{path.name}")
    except ImportError as error:
        raise StorageError(
            f"this kind of destination needs another package: {error}",
            where=destination,
            hint="for s3:// install sltool[s3]",
        ) from error
    except (OSError, ValueError) as error:
        raise StorageError(
            f"the shard could not be uploaded: {error}",
            where=f"{destination}/{path.name}",
            hint="check the address and the credentials, then ship again",
        ) from error
