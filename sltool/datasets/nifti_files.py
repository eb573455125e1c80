"""Slices of NIfTI volumes (pip install "sltool[nifti]"): axial, seen from the patient's feet."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sltool.datasets.base import UnreadableSampleError
from sltool.datasets.dicom_files import Frames, chosen_frames
from sltool.datasets.images import Decode, grey_picture, linear_window
from sltool.errors import UsageError

SUFFIXES = (".nii", ".nii.gz")
# What nibabel raises for a file that is not NIfTI, or is cut off.
BROKEN = (OSError, ValueError, EOFError, KeyError, IndexError, TypeError, zlib.error, struct.error)


@dataclass(frozen=True)
class Slice:
    """An axial slice of a volume; the index counts from the feet."""

    path: Path
    index: int

    def load(self, decode: Decode) -> NDArray[np.uint8]:
        """(channels, height, width): the patient's front at the top, the right side at the left.

        Grey values are scaled by the study's window, or by the volume's full range without one.

        Raises:
            UnreadableSampleError: the volume cannot be read.
        """
        try:
            volume, low, high = _volume(self.path)
        except _broken() as error:
            raise UnreadableSampleError(
                f"the volume cannot be read: {_first_line(error)}"
            ) from error
        # RAS+: the axes go to the right, to the front and up.
        values = volume[::-1, ::-1, self.index].T.astype(np.float32)
        if decode.window is not None:
            return grey_picture(linear_window(values, *decode.window), decode)
        return grey_picture((values - low) / max(high - low, 1e-6), decode)


def slices_of(path: Path, frames: Frames) -> tuple[list[Slice], str]:
    """The slices of a volume that are used, and ''; or no slices, and the reason.

    Reads the header only.
    """
    try:
        shape = _shape(path)
    except _broken() as error:
        return [], f"not a NIfTI volume: {_first_line(error)}"
    if len(shape) != 3 or 0 in shape:
        return [], f"a NIfTI file of shape {shape}, not a single volume (x, y, z)"
    return [Slice(path, index) for index in chosen_frames(shape[2], frames)], ""


def size_of_slices(path: Path) -> tuple[int, int]:
    """Width and height; raises `UnreadableSampleError`."""
    try:
        shape = _shape(path)
        return shape[0], shape[1]
    except _broken() as error:
        raise UnreadableSampleError(f"not a NIfTI volume: {_first_line(error)}") from error


def _nibabel() -> Any:
    try:
        import nibabel
    except ImportError as error:
        raise UsageError("NIfTI files need nibabel", hint='pip install "sltool[nifti]"') from error
    return nibabel


def _broken() -> tuple[type[Exception], ...]:
    nibabel = _nibabel()
    own = nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError
    return (*BROKEN, *own)


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0]


def _shape(path: Path) -> tuple[int, ...]:
    """The lengths of the axes in RAS+, from the header only."""
    nibabel = _nibabel()
    volume = nibabel.load(path)
    if len(volume.shape) < 3:
        return tuple(volume.shape)
    axes = nibabel.io_orientation(volume.affine)[:, 0]
    if not np.isfinite(axes).all():
        raise ValueError("its affine does not define every axis")
    spatial = dict(zip(axes.astype(int), volume.shape, strict=False))
    return (*(spatial[axis] for axis in range(len(spatial))), *volume.shape[3:])


@lru_cache(maxsize=2)
def _volume(path: Path) -> tuple[NDArray[Any], float, float]:
    """The values (x, y, z) in RAS+, the lowest and the highest.

    Cached, because a volume's slices are loaded one after the other.
    """
    nibabel = _nibabel()
    volume = np.asanyarray(nibabel.as_closest_canonical(nibabel.load(path)).dataobj)
    if volume.dtype.kind not in "iuf" or not np.isfinite(volume).all():
        raise ValueError("its values are not finite real numbers")
    return volume, float(volume.min()), float(volume.max())
