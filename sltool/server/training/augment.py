"""Random augmentation of feature maps at the server (`training.augment`), new in every step.

A convolution with pooling is equivariant to flips and shifts only approximately: the map of a
mirrored image is the mirrored map of mirrored filters, and a shift is exact by whole strides of the
pooling. The server network is trained on the changed maps, so that this is harmless.

Sources: mixup, Zhang et al., arXiv 1710.09412; CutMix, Yun et al., arXiv 1905.04899; random
erasing, Zhong et al., arXiv 1708.04896.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from sltool.errors import StudyFileError
from sltool.server.training.objective import Objective
from sltool.study.schema import FeatureAugment

# A rectangle's share of the map, and its height / width: the ranges of Zhong et al., section 4.2.
ERASED_AREA = (0.02, 0.4)
ERASED_ASPECT = (0.3, 1 / 0.3)
# (m,) positions in a batch -> feature maps (m, *feature_shape) and labels (m,)
Load = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Batch:
    """Feature maps and their labels; mixed ones have a second label.

    Attributes:
        features: (n, *feature_shape) float32.
        labels, others: (n,) the labels of both parts of a mixture.
        share: of `labels` in each sample; `others` have the rest.
    """

    features: torch.Tensor
    labels: torch.Tensor
    others: torch.Tensor
    share: float = 1.0

    def loss(self, objective: Objective, outputs: torch.Tensor) -> torch.Tensor:
        """The mean loss of (n, outputs) against the mixed labels.

        A number is mixed itself. For classes the losses are: (binary) cross-entropy is linear in
        the label, so that this is the loss of the mixed label.
        """
        if self.share == 1:
            return objective.loss(outputs, self.labels)
        if objective.labels.kind == "regression":
            mixed = self.share * self.labels + (1 - self.share) * self.others
            return objective.loss(outputs, mixed)
        first, second = (objective.loss(outputs, part) for part in (self.labels, self.others))
        return self.share * first + (1 - self.share) * second


class FeatureAugmenter:
    """Applies the study's settings to batches.

    The random numbers of a batch follow from the run's seed, the epoch and the step: a resumed run
    draws the same ones, and so do all ranks, each of which changes its part of the batch.
    """

    # Random numbers of a sample: flip; zoom, its place (x, y); shift (x, y); erase, the area, the
    # aspect and the place (y, x) of the rectangle.
    DRAWS = 11

    def __init__(self, settings: FeatureAugment, seed: int) -> None:
        self._settings = settings
        self._seed = seed
        self._mixers = [name for name in ("mixup", "cutmix") if getattr(settings, name)]

    def __call__(self, load: Load, local: torch.Tensor, count: int, epoch: int, step: int) -> Batch:
        """The samples at (m,) `local` positions of a batch of `count`, changed on their device.

        Raises:
            StudyFileError: a setting needs feature maps with height and width.
        """
        if self._settings == FeatureAugment():
            features, labels = load(local)
            return Batch(features, labels, labels)
        rng = np.random.default_rng([self._seed, epoch, step, 0x41554746])
        draws = torch.from_numpy(rng.random((count, self.DRAWS), dtype=np.float32))
        features, labels = self._changed(load, local, draws)
        if not self._mixers:
            return Batch(features, labels, labels)
        partners = torch.from_numpy(rng.permutation(count))[local]
        name = self._mixers[rng.integers(len(self._mixers))]
        strength = getattr(self._settings, name)
        share = float(rng.beta(strength, strength))
        if len(local) == count:
            on_device = partners.to(features.device)
            others, other_labels = features[on_device], labels[on_device]
        else:
            others, other_labels = self._changed(load, partners, draws)
        if name == "mixup":
            features = torch.lerp(others, features, share)
        else:
            place = torch.from_numpy(rng.random((1, 2), dtype=np.float32))
            features, share = _cut_and_pasted(features, others, share, place)
        return Batch(features, labels, other_labels, share)

    def _changed(
        self, load: Load, positions: torch.Tensor, draws: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The samples at (m,) positions, by the batch's random numbers (count, DRAWS)."""
        options = self._settings
        features, labels = load(positions)
        if features.dim() != 4 and (keys := options.spatial_keys()):
            raise StudyFileError(
                f"training.augment.{keys[0]} needs feature maps with height and width; these have "
                f"the shape {list(features.shape[1:])}",
                expected="0, or a cut whose feature maps are (channels, height, width)",
            )
        own = draws[positions]
        if options.flip:
            mirrored = _column(own[:, 0] < options.flip, features)
            features = torch.where(mirrored, features.flip(-1), features)
        if options.shift or options.crop:
            features = self._moved(features, own[:, 1:6])
        if options.erase:
            features = self._erased(features, own[:, 6:])
        return features, labels

    def _moved(self, features: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        """Zoomed into a random window and shifted, by bilinear interpolation; edges repeat."""
        zoom, x, y, dx, dy = draws.T
        zoom = 1 - self._settings.crop * zoom
        theta = torch.zeros(len(features), 2, 3)
        theta[:, 0, 0] = theta[:, 1, 1] = zoom
        # Coordinates run from -1 to 1, so that a shift of the whole width is 2.
        shift = 2 * self._settings.shift
        theta[:, 0, 2] = (2 * x - 1) * (1 - zoom) + shift * (2 * dx - 1)
        theta[:, 1, 2] = (2 * y - 1) * (1 - zoom) + shift * (2 * dy - 1)
        grid = F.affine_grid(theta.to(features.device), list(features.shape), align_corners=False)
        moved = F.grid_sample(
            features, grid.to(features.dtype), padding_mode="border", align_corners=False
        )
        return moved.contiguous(memory_format=torch.channels_last)

    def _erased(self, features: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        """A rectangle of some samples, replaced by the mean of each channel."""
        chosen, area, aspect = draws[:, :3].T
        area = ERASED_AREA[0] + (ERASED_AREA[1] - ERASED_AREA[0]) * area
        aspect = ERASED_ASPECT[0] * (ERASED_ASPECT[1] / ERASED_ASPECT[0]) ** aspect
        sides = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], dim=1)
        inside = _rectangles(sides, draws[:, 3:], features.shape[2:])
        mask = (inside & (chosen < self._settings.erase)[:, None, None])[:, None]
        mean = features.mean(dim=(2, 3), keepdim=True)
        return torch.where(mask.to(features.device), mean, features)


def _rectangles(sides: torch.Tensor, places: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """(n, height, width) bool: a rectangle in each map of this (height, width).

    Args:
        sides: (n, 2) the shares of the height and of the width; at most 1.
        places: (n, 2) random numbers in [0, 1).
    """
    spans = []
    for axis, size in enumerate(shape):
        length = (sides[:, axis].clamp(max=1) * size).round()
        start = (places[:, axis] * (size - length + 1)).floor()
        line = torch.arange(size)
        spans.append((line >= start[:, None]) & (line < (start + length)[:, None]))
    rows, columns = spans
    return rows[:, :, None] & columns[:, None, :]


def _cut_and_pasted(
    features: torch.Tensor, others: torch.Tensor, share: float, place: torch.Tensor
) -> tuple[torch.Tensor, float]:
    """A rectangle of about 1 - `share` of every map from `others`; returns its exact share, too."""
    sides = torch.full((1, 2), (1 - share) ** 0.5)
    inside = _rectangles(sides, place, features.shape[2:])
    exact = 1 - float(inside.float().mean())
    return torch.where(inside[None].to(features.device), others, features), exact


def _column(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """(n,) on the CPU -> (n, 1, 1, 1) on the device of `like`."""
    return values.to(like.device).reshape(-1, 1, 1, 1)
