"""Samples and feature maps as pictures. Originals show patients."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

Array = NDArray[Any]

SIDE = 192


def planes(maps: Array, most: int) -> list[Array]:
    """The first channels of a feature map, each (1, H, W) from 0 to 1; a vector is a strip."""
    channels = maps if maps.ndim == 3 else maps.reshape(1, 1, -1)
    return [stretched(plane)[None] for plane in channels[:most]]


def stretched(plane: Array) -> Array:
    """The plane with its least value at 0 and its greatest at 1."""
    low, high = plane.min(), plane.max()
    return np.asarray((plane - low) / max(high - low, 1e-6))


def image_of(picture: Array, side: int = SIDE) -> Image:
    """(C, H, W) from 0 to 1 -> a picture of this width, enlarged without interpolation."""
    from PIL import Image

    pixels = (picture.clip(0, 1) * 255).round().astype(np.uint8)
    shown = pixels.transpose(1, 2, 0) if len(pixels) == 3 else pixels[0]
    image = Image.fromarray(np.ascontiguousarray(shown))
    height = max(1, round(side * image.height / image.width))
    return image.resize((side, height), Image.Resampling.NEAREST)


def png_base64(image: Image) -> str:
    """The PNG of a picture in base64."""
    return base64.b64encode(png_bytes(image)).decode("ascii")


def png_bytes(image: Image) -> bytes:
    """The PNG of a picture."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
