"""Linear inversion: ridge regressions, whose strength is chosen on other patients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from sltool.site.audit.attacker import Pairs, Scene

Array = NDArray[Any]

# Ridge strengths, relative to the mean variance of a feature.
STRENGTHS = (1e-6, 1e-4, 1e-2, 1.0, 1e2, 1e4)
# Most pairs of a global regression, whose cost is cubic in their number.
MOST_PAIRS = 4000
# Most features of a patch: the cost of a regression is quadratic in their number.
PATCH_FEATURES = 250
BATCH = 16
# Number of images on which a ridge's strength is chosen.
CHECKED = 128


def stride(scene: Scene) -> int:
    """Image pixels per feature-map position and axis; 0 if the map is not a grid over the image."""
    image, maps = scene.shape, scene.maps.shape[1:]
    if len(image) != 3 or len(maps) != 3 or image[1] % maps[1]:
        return 0
    step = image[1] // maps[1]
    return step if image[2] == maps[2] * step else 0


@dataclass
class Scale:
    """Standardises feature maps (n, C, ...) by channel or by column."""

    mean: torch.Tensor
    sd: torch.Tensor

    @classmethod
    def fit(cls, maps: Array) -> Scale:
        values = torch.from_numpy(maps)
        axes = [axis for axis in range(values.dim()) if axis != 1]
        sd = values.std(dim=axes, keepdim=True, correction=0)
        return cls(values.mean(dim=axes, keepdim=True), torch.where(sd > 1e-12, sd, 1.0))

    def __call__(self, maps: Array) -> torch.Tensor:
        return (torch.from_numpy(maps) - self.mean) / self.sd


Rebuild = Callable[[Array], Array]


def global_ridge(fit: Pairs, check: Pairs) -> Rebuild:
    """A ridge regression of each sample on all values of its feature map, in dual form.

    Returns:
        A function from feature maps (n, ...) to samples (n, *shape).
    """
    fit = fit.part(np.arange(min(len(fit), MOST_PAIRS)))
    scale = Scale.fit(fit.maps)
    features = scale(fit.maps).flatten(1)
    offset = features.mean(dim=0)
    features = features - offset
    mean = torch.from_numpy(fit.inputs).flatten(1).mean(dim=0)
    targets = torch.from_numpy(fit.inputs).flatten(1) - mean
    values, vectors = torch.linalg.eigh((features @ features.T).double())
    values, vectors = values.clamp(min=0).float(), vectors.float()
    rotated = vectors.T @ targets
    part = check.part(np.arange(min(len(check), CHECKED)))
    checked = ((scale(part.maps).flatten(1) - offset) @ features.T) @ vectors
    expected = torch.from_numpy(part.inputs).flatten(1) - mean
    level = float(values.mean())

    def error(strength: float) -> float:
        predicted = (checked / (values + strength * level)) @ rotated
        return float(((predicted - expected) ** 2).mean())

    best = vectors @ (rotated / (values + min(STRENGTHS, key=error) * level)[:, None])

    def rebuild(maps: Array) -> Array:
        rebuilt = ((scale(maps).flatten(1) - offset) @ features.T) @ best + mean
        return np.asarray(rebuilt.reshape(-1, *fit.inputs.shape[1:]).numpy())

    return rebuild


class PatchRidge:
    """A ridge regression of each block of step x step pixels on the patch of the map around it.

    The block of the mean image is also an input, so that an uninformative feature map gives the
    mean image; of a map with fewer positions than a block has pixels, the position is.

    Args:
        step: image pixels per feature-map position and axis.
        rows: most patches to learn from.
    """

    def __init__(self, fit: Pairs, check: Pairs, step: int, rows: int, seed: int) -> None:
        self._scale, self._step = Scale.fit(fit.maps), step
        channels = fit.maps.shape[1]
        self._width = next((k for k in (7, 5) if channels * k * k <= PATCH_FEATURES), 3)
        mean = torch.from_numpy(fit.inputs.mean(axis=0, keepdims=True))
        self._context = _context(F.pixel_unshuffle(mean, step))
        order = np.random.default_rng(seed).permutation(len(fit))
        taken = order[: max(1, rows // int(np.prod(fit.maps.shape[2:])))]
        gram, cross = self._sums(fit.part(taken))
        level = torch.diag(gram.diagonal())
        solutions = [
            torch.linalg.solve(gram + strength * level, cross).float() for strength in STRENGTHS
        ]
        part = check.part(np.arange(min(len(check), CHECKED)))
        expected = torch.from_numpy(part.inputs)
        errors = [
            float(((self._images(part.maps, solution) - expected) ** 2).mean())
            for solution in solutions
        ]
        self._solution = solutions[int(np.argmin(errors))]

    def __call__(self, maps: Array) -> Array:
        """Feature maps (n, C, h, w) -> images."""
        parts = [
            self._images(maps[start : start + BATCH], self._solution)
            for start in range(0, len(maps), BATCH)
        ]
        return np.asarray(torch.cat(parts).numpy())

    def _sums(self, pairs: Pairs) -> tuple[torch.Tensor, torch.Tensor]:
        """The Gram matrix of all patches' features, and their products with the pixels."""
        gram, cross = torch.zeros(()), torch.zeros(())
        for start in range(0, len(pairs), BATCH):
            part = pairs.part(np.arange(start, min(start + BATCH, len(pairs))))
            maps = self._scale(part.maps)
            patches = F.unfold(maps, self._width, padding=self._width // 2)
            context = self._context.flatten(2).expand(len(part), -1, -1)
            ones = torch.ones(len(part), 1, patches.shape[2])
            x = torch.cat([patches, context, ones], dim=1).transpose(1, 2).flatten(0, 1)
            pixels = F.pixel_unshuffle(torch.from_numpy(part.inputs), self._step)
            y = pixels.flatten(2).transpose(1, 2).flatten(0, 1)
            gram = gram + (x.T @ x).double()
            cross = cross + (x.T @ y).double()
        # A constant feature must not make the system singular.
        return gram + 1e-9 * torch.eye(len(gram)).double() * gram.diagonal().mean(), cross

    def _images(self, maps: Array, solution: torch.Tensor) -> torch.Tensor:
        """Images from feature maps, with the solution applied as a convolution."""
        outputs, width = solution.shape[1], self._width
        patch_features = maps.shape[1] * width * width
        kernel = solution[:patch_features].T.reshape(outputs, maps.shape[1], width, width)
        context = torch.einsum("cp,nchw->nphw", solution[patch_features:-1], self._context)
        blocks = F.conv2d(self._scale(maps), kernel, padding=width // 2)
        blocks = blocks + context + solution[-1].reshape(1, -1, 1, 1)
        return F.pixel_shuffle(blocks, self._step)


def _context(blocks: torch.Tensor) -> torch.Tensor:
    """What tells a position's mean block: the block (1, pixels, h, w), or the position itself.

    The cost of a regression is cubic in its features, and a short code has large blocks.
    """
    height, width = blocks.shape[2:]
    places = height * width
    if blocks.shape[1] <= places:
        return blocks
    return torch.eye(places).reshape(1, places, height, width)
