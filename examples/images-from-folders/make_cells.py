"""Draws 160 grey images of 32x32 pixels, of round and sickle cells. Usage: make_cells.py FOLDER."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 32
EACH = 80


def cell(rng: np.random.Generator, sickle: bool) -> np.ndarray:
    """(32, 32) uint8: one cell near the middle, turned at random, on a noisy ground."""
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2 - rng.uniform(-3, 3, (2, 1, 1))
    angle = rng.uniform(0, np.pi)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    length, width = (11, 3.5) if sickle else (8, 7)
    inside = (along / length) ** 2 + ((across - 0.05 * sickle * along**2) / width) ** 2 < 1
    return np.clip(90 + 90 * inside + rng.normal(0, 20, inside.shape), 0, 255).astype(np.uint8)


def main(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("normal", "sickle"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(EACH):
            picture = Image.fromarray(cell(rng, sickle=name == "sickle"))
            picture.save(folder / name / f"cell-{index:03d}.png")


main(Path(sys.argv[1]))
