"""Folders of made-up pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def two_classes(folder: Path, each: int, names: tuple[str, str], side: int = 48) -> Path:
    """`each` grey PNGs in either class folder: noise, with a bright upper half in the second."""
    rng = np.random.default_rng(0)
    for class_index, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for image in range(each):
            pixels = rng.integers(0, 120, (side, side), dtype=np.uint8)
            pixels[: side // 2] += np.uint8(100 * class_index)
            Image.fromarray(pixels).save(folder / name / f"image{image:03d}.png")
    return folder
