"""Creating HDF5 files on disks that may fill up.

HDF5 1.14 crashes the process when a write fails while a file is being closed (seen with a full
disk). So the library writes to a file object that records the first failure, which is raised
after HDF5 has closed the file.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py


class DeferredErrorFile(io.FileIO):
    """A file that records the first failed write or truncation, and ignores all later ones."""

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        size = len(view)
        try:
            while len(view) and self.failure is None:
                view = view[super().write(view) or 0 :]
        except OSError as error:
            self.failure = error
        return size

    def truncate(self, size: int | None = None, /) -> int:
        try:
            if self.failure is None:
                return super().truncate(size)
        except OSError as error:
            self.failure = error
        return size or 0


@contextmanager
def create_hdf5(path: Path, **options: Any) -> Iterator[h5py.File]:
    """Open an HDF5 file for writing; an existing file is overwritten.

    Args:
        options: as `h5py.File` takes them.

    Raises:
        OSError: a write failed; the file must not be used.
    """
    # The mode "r+" keeps the permissions of the file that `publish` created.
    path.touch()
    with DeferredErrorFile(path, "r+") as raw:
        raw.truncate(0)
        with h5py.File(raw, "w", **options) as file:
            yield file
        if raw.failure is not None:
            raise raw.failure
