"""Linear inversion: ridge regressions, their strength chosen on patients they have not seen."""

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

# Ridge strengths beside the mean variance of a feature.
STRENGTHS = (1e-6, 1e-4, 1e-2, 1.0, 1e2, 1e4)
# More pairs than this are not worth the cube of their number in a global regression.
MOST_PAIRS = 4000
# Features of a patch: a wider patch sees more, and costs its square.
PATCH_FEATURES = 250
BATCH = 128


def stride(scene: Scene) -> int:
    """Pixels of the image a side for each place of the feature map; 0 where there is no such."""
    image, maps = scene.shape, scene.maps.shape[1:]
    if len(image) != 3 or len(maps) != 3 or image[1] % maps[1]:
        return 0
    step = image[1] // maps[1]
    return step if image[2] == maps[2] * step else 0


@dataclass
class Scale:
    """Feature maps (n, C, ...) -> standardised ones, by channel or by column."""

    mean: torch.Tensor
    sd: torch.Tensor

    @classmethod
    def of(cls, maps: Array) -> Scale:
        whole = torch.from_numpy(maps)
        axes = [axis for axis in range(whole.dim()) if axis != 1]
        sd = whole.std(dim=axes, keepdim=True, correction=0)
        return cls(whole.mean(dim=axes, keepdim=True), torch.where(sd > 1e-12, sd, 1.0))

    def __call__(self, maps: Array) -> torch.Tensor:
        return (torch.from_numpy(maps) - self.mean) / self.sd


Rebuild = Callable[[Array], Array]


def global_ridge(fit: Pairs, check: Pairs) -> Rebuild:
    """Each value of a sample from all values of its feature map, in the dual form.

    Returns:
        A function from feature maps (n, ...) to samples (n, *shape).
    """
    fit = fit.part(np.arange(min(len(fit), MOST_PAIRS)))
    scale = Scale.of(fit.maps)
    features = scale(fit.maps).flatten(1)
    offset = features.mean(dim=0)
    features = features - offset
    mean = torch.from_numpy(fit.inputs).flatten(1).mean(dim=0)
    targets = torch.from_numpy(fit.inputs).flatten(1) - mean
    gram = (features @ features.T).double()
    checked = (scale(check.maps).flatten(1) - offset) @ features.T
    wanted = torch.from_numpy(check.inputs).flatten(1) - mean
    level = float(gram.diagonal().mean())

    def solve(strength: float) -> torch.Tensor:
        ridge = strength * level * torch.eye(len(gram), dtype=gram.dtype)
        return torch.linalg.solve(gram + ridge, targets.double()).float()

    # In the dual a strength stands beside the sum, not the mean, of a feature's squares.
    solutions = [solve(strength) for strength in STRENGTHS]
    errors = [float(((checked @ one - wanted) ** 2).mean()) for one in solutions]
    best = solutions[int(np.argmin(errors))]

    def rebuild(maps: Array) -> Array:
        found = ((scale(maps).flatten(1) - offset) @ features.T) @ best + mean
        return found.reshape(-1, *fit.inputs.shape[1:]).numpy()

    return rebuild


def patch_ridge(fit: Pairs, check: Pairs, step: int, rows: int, seed: int) -> Rebuild:
    """Each block of step x step pixels from the patch of the feature map around its place.

    What is predicted is the difference to the mean image, so nothing known gives the mean image.
    """
    scale = Scale.of(fit.maps)
    channels = fit.maps.shape[1]
    width = next((k for k in (7, 5) if channels * k * k <= PATCH_FEATURES), 3)
    mean = fit.inputs.mean(axis=0, keepdims=True)

    def patches(maps: Array) -> torch.Tensor:
        """(n, ...) -> (n, places, features + 1)."""
        unfolded = F.unfold(scale(maps), width, padding=width // 2).transpose(1, 2)
        return F.pad(unfolded, (0, 1), value=1.0)

    def blocks(inputs: Array) -> torch.Tensor:
        """(n, C, H, W) -> (n, places, C * step * step): the difference to the mean image."""
        difference = torch.from_numpy(np.asarray(inputs - mean, np.float32))
        return F.unfold(difference, step, stride=step).transpose(1, 2)

    order = np.random.default_rng(seed).permutation(len(fit))
    taken = order[: max(1, rows // int(np.prod(fit.maps.shape[2:])))]
    features = channels * width * width + 1
    gram = torch.zeros(features, features, dtype=torch.float64)
    cross = torch.zeros(features, fit.inputs.shape[1] * step * step, dtype=torch.float64)
    for start in range(0, len(taken), BATCH):
        part = fit.part(taken[start : start + BATCH])
        x, y = patches(part.maps).flatten(0, 1), blocks(part.inputs).flatten(0, 1)
        gram += (x.T @ x).double()
        cross += (x.T @ y).double()
    part = check.part(np.arange(min(len(check), BATCH)))
    x, y = patches(part.maps), blocks(part.inputs)
    level = float(gram.diagonal().mean())
    eye = torch.eye(features, dtype=gram.dtype)
    solutions = [
        torch.linalg.solve(gram + strength * level * eye, cross).float() for strength in STRENGTHS
    ]
    errors = [float(((x @ one - y) ** 2).mean()) for one in solutions]
    best = solutions[int(np.argmin(errors))]
    size = tuple(fit.inputs.shape[2:])

    def rebuild(maps: Array) -> Array:
        parts = [
            F.fold((patches(maps[at : at + BATCH]) @ best).transpose(1, 2), size, step, stride=step)
            for at in range(0, len(maps), BATCH)
        ]
        return torch.cat(parts).numpy() + mean

    return rebuild
