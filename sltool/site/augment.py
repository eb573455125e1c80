"""Random augmentation of training images at the site (`encoding.augment`)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from sltool.study.schema import Encoding


class Augmenter:
    """Flips, rotates, crops and brightens batches of images at random.

    Args:
        settings: the ranges of the random changes.
        seed: together with the order of the images, it determines the versions.
        batch: 0 for a site's first images, 1, 2 ... for those that joined it later.
    """

    # Random numbers for each version: flip, angle, crop, position of the crop (x, y), brightness.
    DRAWS = 6

    def __init__(self, settings: Encoding, seed: int, batch: int = 0) -> None:
        self._settings = settings.augment
        later = [batch] if batch else []
        self._rng = np.random.default_rng([seed, 0x56494557, *later])

    def __call__(self, images: torch.Tensor, views: int) -> torch.Tensor:
        """(n, C, H, W) float32 -> (n * views, C, H, W): each image, then its random versions."""
        if views == 1:
            return images
        count, height, width = len(images), *images.shape[2:]
        draws = self._rng.random((count * (views - 1), self.DRAWS), dtype=np.float64)
        matrices, brightness = self._changes(draws, width / height)
        copies = images.repeat_interleave(views - 1, dim=0)
        theta = torch.from_numpy(matrices).to(images.device, torch.float32)
        grid = F.affine_grid(theta, list(copies.shape), align_corners=False)
        # Pixels from outside the image repeat its edge.
        transformed = F.grid_sample(copies, grid, padding_mode="border", align_corners=False)
        factors = torch.from_numpy(brightness).to(images.device, torch.float32)
        versions = transformed * factors.reshape(-1, 1, 1, 1)
        by_image = versions.reshape(count, views - 1, *images.shape[1:])
        return torch.cat([images[:, None], by_image], dim=1).flatten(0, 1)

    def _changes(
        self, draws: NDArray[np.float64], aspect: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Draws (m, 6) in [0, 1) -> affine matrices (m, 2, 3) and brightness factors (m,).

        The matrices map target to source coordinates, which run from -1 to 1 over the width and
        over the height; `aspect` is width / height.
        """
        flip, angle, crop, x, y, brightness = draws.T
        mirror = np.where(self._settings.flip & (flip < 0.5), -1.0, 1.0)
        rotation = np.deg2rad(self._settings.rotation) * (2 * angle - 1)
        zoom = 1 - self._settings.crop * crop
        matrices = np.empty((len(draws), 2, 3))
        matrices[:, 0, 0] = mirror * zoom * np.cos(rotation)
        matrices[:, 0, 1] = -mirror * zoom * np.sin(rotation) / aspect
        matrices[:, 1, 0] = zoom * np.sin(rotation) * aspect
        matrices[:, 1, 1] = zoom * np.cos(rotation)
        matrices[:, 0, 2] = (2 * x - 1) * (1 - zoom)
        matrices[:, 1, 2] = (2 * y - 1) * (1 - zoom)
        return matrices, 1 + self._settings.brightness * (2 * brightness - 1)
