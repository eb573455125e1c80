"""A received file, opened only once, so that the bytes read are those that were checked."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import threading
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from sltool.errors import ShardRefusedError, StorageError, UnreadableError

HASH_BLOCK = 2**20
# Errors of an exhausted process or machine, which do not depend on the file.
SCARCE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
# Those that the system has: Windows has only the last, and no pipes among files.
FLAGS = ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY")


class UntrustedFile:
    """A regular file, opened for reading. Links are not followed, and pipes do not block.

    Raises:
        ShardRefusedError: it is a link, a folder, a pipe or a device.
        UnreadableError: the operating system refused to open or read it.
        StorageError: file handles or memory are exhausted.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            examined = path.lstat()
            if not stat.S_ISREG(examined.st_mode):
                raise self.refused("is not a regular file")
            # The path may have been replaced between the two calls.
            self._handle = os.open(path, os.O_RDONLY | sum(getattr(os, name, 0) for name in FLAGS))
        except OSError as error:
            raise unreadable(error, path) from error
        self._state = os.fstat(self._handle)
        if not stat.S_ISREG(self._state.st_mode):
            self.close()
            raise self.refused("is not a regular file")
        if not hasattr(os, "O_NOFOLLOW") and not os.path.samestat(examined, self._state):
            self.close()
            raise self.refused("was replaced by another while it was opened")
        self._position = threading.Lock()

    def __enter__(self) -> UntrustedFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)

    @property
    def size(self) -> int:
        """Size in bytes when it was opened."""
        return self._state.st_size

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`, fewer at the end of the file. Thread-safe."""
        try:
            if hasattr(os, "pread"):
                return os.pread(self._handle, size, offset)
            with self._position:
                os.lseek(self._handle, offset, os.SEEK_SET)
                return os.read(self._handle, size)
        except OSError as error:
            raise unreadable(error, self.path) from error

    def sha256(self, start: int, stop: int | None = None) -> str:
        """Hex SHA-256 of all bytes from `start` to `stop`, by default to the end."""
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(HASH_BLOCK))
        while count := self._read_into(buffer if stop is None else buffer[: stop - start], start):
            digest.update(buffer[:count])
            start += count
        return digest.hexdigest()

    def _read_into(self, buffer: memoryview, offset: int) -> int:
        if not hasattr(os, "preadv"):
            block = self.read(offset, len(buffer))
            buffer[: len(block)] = block
            return len(block)
        try:
            return os.preadv(self._handle, [buffer], offset)
        except OSError as error:
            raise unreadable(error, self.path) from error

    def copy_to(self, target: BinaryIO) -> None:
        """Write all its bytes to another file."""
        start = 0
        while block := self.read(start, HASH_BLOCK):
            target.write(block)
            start += len(block)

    def duplicate(self) -> int:
        """Another handle of the same open file, at its start, which the caller has to close.

        Both have one position, so that `read` is not called while the other is used.
        """
        handle = os.dup(self._handle)
        os.lseek(handle, 0, os.SEEK_SET)
        return handle

    def check_unchanged(self) -> None:
        """Raise `ShardRefusedError` if the file was modified since it was opened."""
        now, before = os.fstat(self._handle), self._state
        if (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise self.refused("was changed while it was read")

    def refused(self, what: str, *, expected: str = "") -> ShardRefusedError:
        """The error for this file: 'the file `what`'."""
        return ShardRefusedError(f"the file {what}", where=self.path, expected=expected)


def unreadable(error: OSError, path: Path) -> StorageError:
    """The error for a failure of the system to open or read `path`."""
    if error.errno in SCARCE:
        return StorageError.of(error, path, "read")
    return UnreadableError(
        f"the file cannot be read: {error.strerror or error}",
        where=path,
        expected="a regular file that the server's user may read",
    )
