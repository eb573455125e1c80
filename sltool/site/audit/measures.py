"""Measures of a reconstruction's quality, per sample, and their 95 % intervals over patients.

Images are (n, C, H, W) from 0 to 1; table rows are (n, columns) in units of each column's standard
deviation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

Array = NDArray[Any]

# Wang, Bovik, Sheikh & Simoncelli, "Image Quality Assessment: From Error Visibility to Structural
# Similarity", 2004: a Gaussian window of 11x11 pixels with a standard deviation of 1.5.
WINDOW = 11
SIGMA = 1.5
K1, K2 = 0.01, 0.03
# An image counts as recovered exactly if its root mean square error is below one grey level.
GREY_LEVEL = 1 / 255
DRAWS = 1000
DIGITS = 12
# Smallest tolerance of a column, in standard deviations.
FINEST = 0.01


@dataclass(frozen=True)
class Figure:
    """A figure on the held-out patients and its 95 % interval.

    Without an interval, `low` and `high` equal `value`.
    """

    value: float
    low: float
    high: float


def ssim(images: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Structural similarity of pairs of images, (n, C, H, W) x 2 -> (n,), mean over channels.

    Equals `skimage.metrics.structural_similarity` with `gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, data_range=1`. For images smaller than 11 x 11 pixels, the window
    is reduced to fit.
    """
    side = min(WINDOW, *images.shape[2:])
    window = _gaussian(side - (side + 1) % 2).to(images)

    def blur(batch: torch.Tensor) -> torch.Tensor:
        flat = batch.flatten(0, 1)[:, None]
        rows = F.conv2d(flat, window.reshape(1, 1, -1, 1))
        return F.conv2d(rows, window.reshape(1, 1, 1, -1))

    x, y = blur(images), blur(others)
    xx, yy, xy = blur(images * images), blur(others * others), blur(images * others)
    c1, c2 = K1**2, K2**2
    similarity = (2 * x * y + c1) * (2 * (xy - x * y) + c2)
    similarity = similarity / ((x * x + y * y + c1) * (xx - x * x + yy - y * y + c2))
    return similarity.reshape(len(images), -1).mean(dim=1)


def _gaussian(side: int) -> torch.Tensor:
    places = torch.arange(side, dtype=torch.float64) - side // 2
    weights = torch.exp(-(places**2) / (2 * SIGMA**2))
    return weights / weights.sum()


def ssim_of(images: Array, others: Array, batch: int = 256) -> Array:
    """`ssim` of arrays, a batch at a time, in float64: (n,)."""
    parts = [
        ssim(
            torch.from_numpy(images[start : start + batch]).double(),
            torch.from_numpy(others[start : start + batch]).double(),
        ).numpy()
        for start in range(0, len(images), batch)
    ]
    return np.concatenate(parts)


def squared_error(originals: Array, rebuilt: Array) -> Array:
    """Mean squared error of each sample, (n,)."""
    axes = tuple(range(1, originals.ndim))
    return np.asarray(((originals.astype(float) - rebuilt) ** 2).mean(axis=axes))


def psnr(originals: Array, rebuilt: Array) -> Array:
    """Peak signal-to-noise ratio of each image in dB, (n,); at most 100."""
    return np.asarray(-10 * np.log10(np.maximum(squared_error(originals, rebuilt), 1e-10)))


def recovered_images(originals: Array, rebuilt: Array) -> Array:
    """Whether each image's root mean square error is below one grey level, (n,)."""
    return np.asarray(squared_error(originals, rebuilt) < GREY_LEVEL**2)


def tolerances(known: Array) -> Array:
    """The largest error at which a column counts as recovered, (columns,).

    It is half of the smallest step between the column's values (an age in whole years is recovered
    if rounding gives it), and at least 1 % of the standard deviation.

    Args:
        known: rows (n, columns) that the attacker knows, in standard deviations.
    """
    steps = [np.diff(np.unique(column)) for column in known.T]
    halves = [step.min() / 2 if len(step) else 0.0 for step in steps]
    return np.maximum(halves, FINEST)


def recovered_rows(originals: Array, rebuilt: Array, tolerance: Array) -> Array:
    """Whether every column of each row was recovered, (n,)."""
    return np.asarray((np.abs(originals - rebuilt) < tolerance).all(axis=1))


def r2_by_column(originals: Array, rebuilt: Array, mean: Array) -> Array:
    """The fraction of each column's variance that was explained, (columns,); NaN if constant.

    Args:
        mean: (columns,) the guess without a shard: the mean of the known rows.
    """
    residual = ((originals - rebuilt) ** 2).sum(axis=0)
    total = ((originals - mean) ** 2).sum(axis=0)
    return np.asarray(np.where(total > 0, 1 - residual / np.where(total > 0, total, 1), np.nan))


def distance_correlation(originals: Array, maps: Array) -> float:
    """Distance correlation of samples and feature maps (n, ...) x 2, bias-corrected; 0 to 1.

    0 means independence (Szekely & Rizzo, "The distance correlation t-test of independence in high
    dimension", 2013). In high dimensions, the uncorrected statistic tends to 1 for any data.
    """
    if len(originals) < 4:
        return math.nan
    a, b = _centred(originals), _centred(maps)
    spread = (a * a).sum() * (b * b).sum()
    return math.sqrt(max(float((a * b).sum()) / math.sqrt(spread), 0.0)) if spread > 0 else 0.0


def _centred(samples: Array) -> Array:
    """The U-centred matrix of distances, (n, n)."""
    flat = torch.from_numpy(samples.reshape(len(samples), -1)).double()
    n = len(flat)
    distances = torch.cdist(flat, flat).numpy()
    rows = distances.sum(axis=1) / (n - 2)
    centred = distances - rows[:, None] - rows[None, :] + distances.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(centred, 0.0)
    return np.asarray(centred)


def leak(score: float, mean_score: float) -> float:
    """L: 0 for the SSIM of the mean image (`mean_score`), 1 for the original itself (SSIM 1)."""
    return (score - mean_score) / (1 - mean_score) if mean_score < 1 else 0.0


def leaks(scores: Array, mean_scores: Array, groups: Array, seed: int) -> Figure:
    """The leak of samples with these scores (n,), relative to those of the mean image (n,)."""
    return bootstrap(
        lambda weights: _resampled_leaks(weights @ scores, weights @ mean_scores),
        groups,
        seed,
        len(scores),
    )


def _resampled_leaks(scores: Array, mean_scores: Array) -> Array:
    return np.asarray((scores - mean_scores) / np.maximum(1 - mean_scores, 1e-12))


def mean_figure(values: Array, groups: Array, seed: int) -> Figure:
    """The mean over samples of `values`, (n,)."""
    return bootstrap(lambda weights: weights @ values.astype(float), groups, seed, len(values))


def bootstrap(
    statistic: Callable[[Array], Array], groups: Array, seed: int, samples: int
) -> Figure:
    """A statistic and its 95 % percentile interval, from a bootstrap that draws whole groups.

    Args:
        statistic: weights of the samples (B, n), whose rows sum to 1 -> values (B,).
        groups: (n,) the patient of each sample.
    """
    _, patients = np.unique(groups, return_inverse=True)
    count = int(patients.max()) + 1
    # Rounded, so that a rate of 1 does not exceed 1.
    value = round(float(statistic(np.full((1, samples), 1 / samples))[0]), DIGITS)
    if count < 2:
        return Figure(value, value, value)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=DRAWS)
    weights = drawn[:, patients].astype(float)
    values = statistic(weights / weights.sum(axis=1, keepdims=True))
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return Figure(value, round(float(low), DIGITS), round(float(high), DIGITS))
