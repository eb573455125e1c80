"""Pictures in a terminal: block characters in shades of grey."""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

SHADES = " ░▒▓█"
ASCII = " .:*#"
HALF = "▀"
# The 24 greys of terminals with 256 colours.
GREYS, FIRST_GREY = 24, 232


def has_colour() -> bool:
    """Whether stdout gets colours: https://no-color.org, and `FORCE_COLOR` where it is no terminal.

    `NO_COLOR` outweighs `FORCE_COLOR`.
    """
    if os.environ.get("NO_COLOR") or not _can_print(HALF):
        return False
    shows = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    return shows or bool(os.environ.get("FORCE_COLOR"))


def blocks(picture: NDArray[Any], width: int, colour: bool) -> list[str]:
    """A picture (C, H, W) from 0 to 1 as lines of `width` characters, two pixels high each."""
    plane = picture.mean(axis=0)
    height = max(1, round(width * plane.shape[0] / plane.shape[1]))
    small = _resized(plane, height + height % 2, width).clip(0, 1)
    upper, lower = small[::2], small[1::2]
    if not colour:
        shades = SHADES if _can_print(SHADES) else ASCII
        levels = ((upper + lower) / 2 * (len(shades) - 1)).round().astype(int)
        return ["".join(shades[level] for level in row) for row in levels]
    return ["".join(map(_two_pixels, *pair)) + "\x1b[0m" for pair in zip(upper, lower, strict=True)]


def beside(tiles: list[list[str]], widths: int) -> list[str]:
    """Tiles of this width side by side, aligned at the top."""
    height = max(map(len, tiles))
    padded = [tile + [" " * widths] * (height - len(tile)) for tile in tiles]
    return [" ".join(parts) for parts in zip(*padded, strict=True)]


def _two_pixels(upper: float, lower: float) -> str:
    above, below = (FIRST_GREY + round(float(value) * (GREYS - 1)) for value in (upper, lower))
    return f"\x1b[38;5;{above}m\x1b[48;5;{below}m{HALF}"


def _resized(plane: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """(H, W) -> (height, width): means of areas where it shrinks, else the nearest value."""
    rows = [_means(plane, edge, axis=0) for edge in _spans(plane.shape[0], height)]
    tall = np.stack(rows)
    columns = [_means(tall, edge, axis=1) for edge in _spans(plane.shape[1], width)]
    return np.stack(columns, axis=1)


def _means(plane: NDArray[Any], span: slice, axis: int) -> NDArray[Any]:
    part = plane[span] if axis == 0 else plane[:, span]
    return np.asarray(part.mean(axis=axis))


def _spans(size: int, parts: int) -> list[slice]:
    starts = [part * size // parts for part in range(parts)]
    return [
        slice(start, max(start + 1, (part + 1) * size // parts))
        for part, start in enumerate(starts)
    ]


def _can_print(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
