"""Random versions of a training image, made at the site, where the image is (encoding.augment)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from sltool.study.schema import Encoding


class Augmenter:
    """Flip, turn, crop and brighten images at random, many at once.

    Args:
        settings: which changes, and how much of each.
        seed: the versions follow from it and from the order of the images alone.
    """

    # Numbers drawn for a version: flip, angle, crop, place of the crop (x, y), brightness.
    DRAWS = 6

    def __init__(self, settings: Encoding, seed: int) -> None:
        self._settings = settings.augment
        self._rng = np.random.default_rng([seed, 0x56494557])

    def __call__(self, images: torch.Tensor, views: int) -> torch.Tensor:
        """(n, C, H, W) float32 -> (n * views, C, H, W): each image, then its random versions."""
        if views == 1:
            return images
        number, height, width = len(images), *images.shape[2:]
        draws = self._rng.random((number * (views - 1), self.DRAWS), dtype=np.float64)
        maps, brightness = self._changes(draws, width / height)
        copies = images.repeat_interleave(views - 1, dim=0)
        place = torch.from_numpy(maps).to(images.device, torch.float32)
        grid = F.affine_grid(place, list(copies.shape), align_corners=False)
        # What a turn brings in from outside repeats the picture's edge.
        turned = F.grid_sample(copies, grid, padding_mode="border", align_corners=False)
        factors = torch.from_numpy(brightness).to(images.device, torch.float32)
        versions = turned * factors.reshape(-1, 1, 1, 1)
        by_image = versions.reshape(number, views - 1, *images.shape[1:])
        return torch.cat([images[:, None], by_image], dim=1).flatten(0, 1)

    def _changes(
        self, draws: NDArray[np.float64], aspect: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Draws (m, 6) in [0, 1) -> affine maps (m, 2, 3) from new to old places, and factors (m,).

        Places run from -1 to 1 over the width and over the height, `aspect` is width / height.
        """
        flip, angle, crop, x, y, brightness = draws.T
        side = np.where(self._settings.flip & (flip < 0.5), -1.0, 1.0)
        turn = np.deg2rad(self._settings.rotation) * (2 * angle - 1)
        kept = 1 - self._settings.crop * crop
        maps = np.empty((len(draws), 2, 3))
        maps[:, 0, 0] = side * kept * np.cos(turn)
        maps[:, 0, 1] = -side * kept * np.sin(turn) / aspect
        maps[:, 1, 0] = kept * np.sin(turn) * aspect
        maps[:, 1, 1] = kept * np.cos(turn)
        maps[:, 0, 2] = (2 * x - 1) * (1 - kept)
        maps[:, 1, 2] = (2 * y - 1) * (1 - kept)
        return maps, 1 + self._settings.brightness * (2 * brightness - 1)
