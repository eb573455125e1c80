"""Learned inversion: networks from feature maps to samples, trained on pairs of other patients.

Each network learns the residual of a linear inversion, so that little training suffices. The
reconstruction after a number of steps uses the exponential moving average of the weights, at the
step with the smallest error on patients who are neither learned from nor attacked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from sltool.site.audit.attacker import Attempt, Pairs, Scene, doublings
from sltool.site.audit.measures import ssim
from sltool.site.audit.ridge import PatchRidge, Rebuild, Scale, global_ridge, stride

Array = NDArray[Any]

BATCH = 16
RATE = 2e-3
# Weight of the structural similarity in the loss, relative to the squared error.
SIMILARITY = 0.1
# Side of the square of the feature map that a training step uses: distant values say little.
CROP = 32
WIDTH = 32
HIDDEN = 256
# Side to which a dense stem pools the feature map.
STEM = 16
CHECKED = 128
AVERAGE = 0.99


class ConvDecoder(nn.Module):
    """Convolutions on the feature map, then a pixel shuffle: (n, C, h, w) -> (n, c, H, W)."""

    def __init__(self, channels: int, image_channels: int, step: int) -> None:
        super().__init__()
        pixels = image_channels * step * step
        self.step = step
        self.first = nn.Conv2d(channels + pixels, WIDTH, 3, padding=1)
        self.middle = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in range(3))
        self.last = nn.Conv2d(WIDTH, pixels, 3, padding=1)
        _start_from_zero(self.last)

    def forward(self, maps: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        """`start`: (n, c, H, W), the linear inversion of the maps."""
        x = F.relu(self.first(torch.cat([maps, F.pixel_unshuffle(start, self.step)], dim=1)))
        for layer in self.middle:
            x = x + F.relu(layer(x))
        found: torch.Tensor = start + F.pixel_shuffle(self.last(x), self.step)
        return found


class DenseDecoder(nn.Module):
    """A dense stem over the whole feature map, then upsampling; the maps need not be a grid."""

    def __init__(self, maps: tuple[int, ...], image: tuple[int, ...]) -> None:
        super().__init__()
        pool = len(maps) == 3 and max(maps[1:]) > STEM
        self.pool = nn.AdaptiveAvgPool2d(STEM) if pool else nn.Identity()
        inputs = maps[0] * STEM * STEM if pool else int(np.prod(maps))
        self.side = [max(1, size // 8) for size in image[1:]]
        self.size = image[1:]
        self.stem = nn.Sequential(nn.Flatten(), nn.Linear(inputs, HIDDEN), nn.ReLU())
        self.spread = nn.Linear(HIDDEN, WIDTH * self.side[0] * self.side[1])
        self.up = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in range(2))
        self.last = nn.Conv2d(WIDTH, 4 * image[0], 3, padding=1)
        _start_from_zero(self.last)

    def forward(self, maps: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.spread(self.stem(self.pool(maps)))).reshape(-1, WIDTH, *self.side)
        for layer in self.up:
            x = F.relu(layer(F.interpolate(x, scale_factor=2.0)))
        found: torch.Tensor = F.pixel_shuffle(self.last(x), 2)
        if found.shape[2:] != self.size:
            found = F.interpolate(found, size=self.size, mode="bilinear")
        return start + found


class RowDecoder(nn.Module):
    """Dense layers from feature maps (n, ...) to table rows (n, columns)."""

    def __init__(self, maps: tuple[int, ...], columns: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Flatten(),
            nn.Linear(int(np.prod(maps)), HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.ReLU(),
        )
        self.last = nn.Linear(HIDDEN, columns)
        _start_from_zero(self.last)

    def forward(self, maps: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = start + self.last(self.body(maps))
        return found


def _start_from_zero(layer: nn.Conv2d | nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def convolutional(scene: Scene, fit: Pairs, check: Pairs) -> Iterator[Attempt]:
    """Attempts of a `ConvDecoder` that starts from a `PatchRidge`."""
    step = stride(scene)
    start = PatchRidge(fit, check, step, scene.budget.rows, scene.seed)
    network = ConvDecoder(scene.maps.shape[1], scene.shape[0], step)
    return _attempts(network, start, scene, fit, check, scene.budget.steps, crop=step)


def dense(scene: Scene, fit: Pairs, check: Pairs) -> Iterator[Attempt]:
    """Attempts of a `DenseDecoder`, or for tables a `RowDecoder`, that starts from a ridge."""
    maps = tuple(scene.maps.shape[1:])
    network = DenseDecoder(maps, scene.shape) if scene.is_image else RowDecoder(maps, *scene.shape)
    steps = max(1, scene.budget.steps // 2)
    return _attempts(network, global_ridge(fit, check), scene, fit, check, steps, crop=0)


def _attempts(
    network: nn.Module,
    start: Rebuild,
    scene: Scene,
    fit: Pairs,
    check: Pairs,
    steps: int,
    crop: int,
) -> Iterator[Attempt]:
    """Train, and rebuild after each doubling of the steps.

    Args:
        crop: image pixels per feature-map position and axis, to train on random crops; 0: train on
            whole images.
    """
    device = scene.device
    network = network.to(device)
    average = torch.optim.swa_utils.get_ema_multi_avg_fn(AVERAGE)  # type: ignore[no-untyped-call]
    mean = torch.optim.swa_utils.AveragedModel(network, multi_avg_fn=average)
    scale = Scale.fit(fit.maps)
    checked = check.part(np.arange(min(len(check), CHECKED)))
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
    rng = np.random.default_rng(scene.seed)
    initial = start(fit.maps)
    best, rebuilt = _error(start(checked.maps), checked), start(scene.maps)
    marks = doublings(steps)
    for step in range(1, steps + 1):
        rows = rng.integers(0, len(fit), BATCH)
        batch = [scale(fit.maps[rows]), *map(torch.from_numpy, (initial[rows], fit.inputs[rows]))]
        maps, guess, target = (tensor.to(device) for tensor in _cropped(batch, crop, rng))
        loss = _loss(network(maps, guess), target)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        mean.update_parameters(network)
        if step in marks:
            error = _error(_rebuild(mean, scale, start, checked.maps, device), checked)
            if error < best:
                best, rebuilt = error, _rebuild(mean, scale, start, scene.maps, device)
            yield Attempt(step, rebuilt)


def _loss(rebuilt: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    error = F.mse_loss(rebuilt, target)
    if rebuilt.dim() == 2:
        return error
    return error + SIMILARITY * (1 - ssim(rebuilt, target).mean())


def _error(rebuilt: Array, pairs: Pairs) -> float:
    return float(_loss(torch.from_numpy(rebuilt), torch.from_numpy(pairs.inputs)))


def _cropped(batch: list[torch.Tensor], crop: int, rng: np.random.Generator) -> list[torch.Tensor]:
    """The same random crop, of at most CROP x CROP map positions, of maps, guesses and images."""
    if not crop:
        return batch
    maps, *images = batch
    height, width = (min(size, CROP) for size in maps.shape[2:])
    y = int(rng.integers(maps.shape[2] - height + 1))
    x = int(rng.integers(maps.shape[3] - width + 1))
    part = maps[:, :, y : y + height, x : x + width]
    rows = slice(y * crop, (y + height) * crop)
    columns = slice(x * crop, (x + width) * crop)
    return [part, *(image[:, :, rows, columns] for image in images)]


@torch.no_grad()
def _rebuild(
    network: Callable[..., torch.Tensor],
    scale: Scale,
    start: Rebuild,
    maps: Array,
    device: torch.device,
    batch: int = 32,
) -> Array:
    parts = []
    for first in range(0, len(maps), batch):
        block = maps[first : first + batch]
        guess = torch.from_numpy(start(block)).to(device)
        parts.append(network(scale(block).to(device), guess).cpu())
    return np.asarray(torch.cat(parts).numpy())
