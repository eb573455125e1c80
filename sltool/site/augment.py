"""Random augmentation of training images at the site (`encoding.augment`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sltool.study.schema import Encoding

if TYPE_CHECKING:
    import torch


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
        # Imported here: a site without torch uses `plain`.
        import torch
        from torch.nn import functional as F

        if views == 1:
            return images
        count = len(images)
        matrices, brightness = self._draw(tuple(images.shape), views)
        copies = images.repeat_interleave(views - 1, dim=0)
        theta = torch.from_numpy(matrices).to(images.device, torch.float32)
        grid = F.affine_grid(theta, list(copies.shape), align_corners=False)
        # Pixels from outside the image repeat its edge.
        transformed = F.grid_sample(copies, grid, padding_mode="border", align_corners=False)
        factors = torch.from_numpy(brightness).to(images.device, torch.float32)
        versions = transformed * factors.reshape(-1, 1, 1, 1)
        by_image = versions.reshape(count, views - 1, *images.shape[1:])
        return torch.cat([images[:, None], by_image], dim=1).flatten(0, 1)

    def plain(self, images: NDArray[Any], views: int) -> NDArray[np.float32]:
        """As a call, for arrays and without torch."""
        if views == 1:
            return images
        matrices, brightness = self._draw(images.shape, views)
        versions = transformed(np.repeat(images, views - 1, axis=0), matrices)
        versions *= brightness.astype(np.float32).reshape(-1, 1, 1, 1)
        by_image = versions.reshape(len(images), views - 1, *images.shape[1:])
        parts = np.concatenate([images[:, None], by_image], axis=1)
        return parts.reshape(-1, *images.shape[1:])

    def _draw(
        self, shape: tuple[int, ...], views: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The changes of the versions of images (n, C, H, W); see `_changes`."""
        draws = self._rng.random((shape[0] * (views - 1), self.DRAWS), dtype=np.float64)
        return self._changes(draws, shape[3] / shape[2])

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


def transformed(images: NDArray[np.float32], matrices: NDArray[Any]) -> NDArray[np.float32]:
    """Images (m, C, H, W) under affine maps (m, 2, 3) from target to source coordinates.

    Bilinear; pixels from outside the image repeat its edge. Coordinates run from -1 to 1 between
    the outer edges of the first and last pixels, as in torch with `align_corners=False`.
    """
    height, width = images.shape[2:]
    x = ((np.arange(width, dtype=np.float32) * 2 + 1) / width - 1)[None, :]
    y = ((np.arange(height, dtype=np.float32) * 2 + 1) / height - 1)[:, None]
    out = np.empty_like(images)
    for index, matrix in enumerate(matrices.astype(np.float32)):
        across = _pixels(matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2], width)
        down = _pixels(matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2], height)
        left, top = np.floor(across).astype(int), np.floor(down).astype(int)
        right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
        dx, dy = across - left, down - top
        image = images[index]
        upper = image[:, top, left] * (1 - dx) + image[:, top, right] * dx
        lower = image[:, bottom, left] * (1 - dx) + image[:, bottom, right] * dx
        out[index] = upper * (1 - dy) + lower * dy
    return out


def _pixels(coordinates: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Coordinates from -1 to 1 -> positions from 0 to side - 1, cut off at the edges."""
    positions = ((coordinates + 1) * side - 1) / 2
    return np.clip(positions, 0, side - 1).astype(np.float32)
