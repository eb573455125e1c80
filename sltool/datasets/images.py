"""Image files -> arrays of the same size. Runs in worker processes, so it imports little."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp"})
# What `decode_image` raises for a file that is not an image, or is cut off.
NO_IMAGE = (OSError, ValueError, SyntaxError, Warning, EOFError)


@dataclass(frozen=True)
class Decode:
    """How an image file becomes an array.

    Attributes:
        height, width: in pixels.
        channels: 1 (grey) or 3 (RGB).
        pad: keep the aspect ratio and fill the rest with black, instead of stretching.
        window: centre and width of the grey values of pictures with more than 8 bits; None: the
            full range of the file's format (floating point: 0 to the picture's maximum).
    """

    height: int
    width: int
    channels: int = 1
    pad: bool = False
    window: tuple[float, float] | None = None


@dataclass(frozen=True)
class ImageFiles:
    """Image files that `prepare` decodes in parallel."""

    paths: Sequence[Path]
    decode: Decode


def decode_image(path: Path, decode: Decode) -> NDArray[np.uint8]:
    """Read a file as uint8 of shape (channels, height, width).

    Raises:
        OSError, ValueError, SyntaxError: Pillow cannot read the file as an image.
    """
    from PIL import Image

    with warnings.catch_warnings():
        # Pillow only warns about a file that decodes to hundreds of megapixels.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path) as image:
            image.draft("L" if decode.channels == 1 else "RGB", (decode.width, decode.height))
            image.load()
            picture = _eight_bit(image, decode.window).convert(
                "L" if decode.channels == 1 else "RGB"
            )
    return as_array(picture, decode)


def as_array(picture: Any, decode: Decode) -> NDArray[np.uint8]:
    """A Pillow image, grey or RGB, as uint8 (channels, height, width)."""
    array = np.asarray(fit(picture, decode), dtype=np.uint8)
    if array.ndim == 2:
        return np.repeat(array[None], decode.channels, axis=0)
    return array.transpose(2, 0, 1)


def grey_picture(grey: NDArray[Any], decode: Decode) -> NDArray[np.uint8]:
    """Values (H, W), black 0 and white 1, as uint8 (channels, height, width)."""
    from PIL import Image

    return as_array(Image.fromarray((grey.clip(0, 1) * 255).round().astype(np.uint8)), decode)


def linear_window(values: NDArray[np.float32], centre: float, width: float) -> NDArray[np.float32]:
    """PS3.3 C.11.2.1.2.1 of the DICOM standard: grey values -> black 0 and white 1, not clipped."""
    return (values - np.float32(centre - 0.5)) / np.float32(max(width - 1, 1e-6)) + np.float32(0.5)


def _eight_bit(image: Any, window: tuple[float, float] | None) -> Any:
    """16-bit and float pictures scaled to 0..255; Pillow's own conversion would clip them."""
    from PIL import Image

    if not image.mode.startswith(("I", "F")):
        # Palettes with transparency convert through RGBA.
        return image.convert("RGBA") if "transparency" in image.info else image
    pixels = np.asarray(image, dtype=np.float32)
    if window is not None:
        return Image.fromarray((linear_window(pixels, *window).clip(0, 1) * 255).astype(np.uint8))
    top = 65535.0 if image.mode.startswith("I") else max(float(pixels.max(initial=0)), 1.0)
    return Image.fromarray((pixels.clip(0, top) * (255.0 / top)).astype(np.uint8))


def fit(picture: Any, decode: Decode) -> Any:
    """A Pillow image resized to the height and width."""
    from PIL import Image, ImageOps

    size = (decode.width, decode.height)
    if picture.size == size:
        return picture
    if decode.pad:
        return ImageOps.pad(picture, size, Image.Resampling.BILINEAR, color=0)
    return picture.resize(size, Image.Resampling.BILINEAR)


def decode_batch(
    paths: Sequence[Path], decode: Decode
) -> tuple[NDArray[np.uint8], list[int], list[str]]:
    """Decode files one after the other: the whole task of a worker process.

    Returns:
        The readable images as uint8 (n, channels, height, width), their indices in `paths`, and
        for each file '' or the reason why it could not be read.
    """
    images = np.empty((len(paths), decode.channels, decode.height, decode.width), np.uint8)
    readable: list[int] = []
    reasons = []
    for index, path in enumerate(paths):
        try:
            images[len(readable)] = decode_image(path, decode)
            readable.append(index)
            reasons.append("")
        except NO_IMAGE as error:
            reasons.append(unreadable_reason(error))
    return images[: len(readable)], readable, reasons


def unreadable_reason(error: Exception) -> str:
    """Why `decode_image` could not read a file, for the user."""
    text = str(error).split("\n", 1)[0]
    return "not an image that Pillow knows" if "cannot identify" in text else text or repr(error)


def image_files(folder: Path) -> list[Path]:
    """The image files below a folder, sorted; hidden files are skipped."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
