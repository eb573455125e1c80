"""Folders that shards travel through: a disk's folder, a bucket by fsspec, an SFTP server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sltool.errors import StorageError
from sltool.files import copy, publish

# Of what fsspec knows about a file: what changes whenever its content does.
VERSION_KEYS = ("ETag", "etag", "LastModified", "last_modified", "mtime", "md5Hash", "updated")


class RemoteFolder(Protocol):
    """A folder of files, without subfolders. Every method raises `StorageError`."""

    def put(self, path: Path) -> None:
        """Copy a file there, under its own name; never visible in part."""

    def size(self, name: str) -> int | None:
        """Bytes of a file there; None if there is none."""

    def versions(self) -> dict[str, str]:
        """Every file's name, and a text that changes whenever its content does."""

    def get(self, name: str, target: Path) -> None:
        """Publish a private copy of a file as `target`."""


@contextmanager
def open_remote(where: str) -> Iterator[RemoteFolder]:
    """The folder at a path, or at a URL: sftp://host/path, or one that fsspec understands.

    Raises:
        StorageError: it cannot be reached, or needs a package that is not installed.
        UsageError: the URL has a password.
    """
    if "://" not in where:
        yield DiskFolder(Path(where))
    elif where.startswith(("sftp://", "ssh://")):
        with storage_errors(where):
            from sltool.sftp import open_sftp
        with open_sftp(where) as folder:
            yield folder
    else:
        import fsspec
        from fsspec.implementations.local import LocalFileSystem

        with storage_errors(where):
            fs, prefix = fsspec.core.url_to_fs(where)
        local = isinstance(fs, LocalFileSystem)
        yield DiskFolder(Path(prefix)) if local else Bucket(fs, prefix.rstrip("/"), where)


@dataclass(frozen=True)
class DiskFolder:
    """A folder of this machine, or of a disk in it."""

    path: Path

    def put(self, path: Path) -> None:
        copy(path, self.path / path.name)

    def size(self, name: str) -> int | None:
        with storage_errors(str(self.path)):
            file = self.path / name
            return file.stat().st_size if file.is_file() else None

    def versions(self) -> dict[str, str]:
        with storage_errors(str(self.path)):
            # A link on somebody else's disk may lead to a file of this machine.
            files = [p for p in self.path.iterdir() if p.is_file() and not p.is_symlink()]
            facts = {path.name: path.stat() for path in files}
        return {name: f"{fact.st_size} {fact.st_mtime_ns}" for name, fact in facts.items()}

    def get(self, name: str, target: Path) -> None:
        copy(self.path / name, target)


@dataclass(frozen=True)
class Bucket:
    """A prefix in a bucket, or in any other storage that fsspec opens."""

    fs: Any
    prefix: str
    url: str

    def put(self, path: Path) -> None:
        with storage_errors(f"{self.url}/{path.name}"):
            self.fs.put_file(str(path), f"{self.prefix}/{path.name}")

    def size(self, name: str) -> int | None:
        with storage_errors(self.url):
            try:
                size: int | None = self.fs.info(f"{self.prefix}/{name}")["size"]
            except FileNotFoundError:
                return None
        return size

    def versions(self) -> dict[str, str]:
        with storage_errors(self.url):
            self.fs.invalidate_cache()
            entries = self.fs.ls(self.prefix, detail=True)
        return {
            entry["name"].rpartition("/")[2]: " ".join(
                [str(entry["size"]), *(str(entry[key]) for key in VERSION_KEYS if key in entry)]
            )
            for entry in entries
            if entry["type"] == "file"
        }

    def get(self, name: str, target: Path) -> None:
        with publish(target) as part, storage_errors(f"{self.url}/{name}"):
            self.fs.get_file(f"{self.prefix}/{name}", str(part))


@contextmanager
def storage_errors(where: str) -> Iterator[None]:
    """Turn the errors of fsspec and its file systems into `StorageError`."""
    try:
        yield
    except ImportError as error:
        raise StorageError(
            f"this kind of address needs another package: {error}",
            where=where,
            hint="for s3:// install sltool[s3], for sftp:// sltool[sftp]",
        ) from error
    except (OSError, ValueError) as error:
        raise StorageError(
            f"it cannot be reached: {error}",
            where=where,
            hint="check the address and the credentials, then run the command again",
        ) from error
