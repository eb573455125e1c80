"""Linear inversion of feature maps, also of codes with few positions."""

from __future__ import annotations

import numpy as np
import pytest

from sltool.site.audit.attacker import Pairs
from sltool.site.audit.ridge import PatchRidge, global_ridge

SIDE = 32


def pairs(seed: int, places: int, weights: np.ndarray) -> Pairs:
    """Images that are linear in their maps (2, places, places), on a mean image with a gradient."""
    rng = np.random.default_rng(seed)
    maps = rng.normal(size=(80, 2, places, places)).astype(np.float32)
    step = SIDE // places
    blocks = np.einsum("nchw,cij->nhiwj", maps, weights).reshape(-1, 1, SIDE, SIDE)
    mean = np.linspace(0, 1, SIDE)[:, None] * np.linspace(0, 1, SIDE)[None, :]
    assert weights.shape == (2, step, step)
    images = (0.3 * mean + 0.1 * blocks + 0.3).astype(np.float32)
    return Pairs(images, maps, np.zeros(80), np.arange(80), maps, np.ones(80))


@pytest.mark.parametrize("places", [1, 2, 4, 16])
def test_linear_images_are_rebuilt(places: int) -> None:
    step = SIDE // places
    weights = np.random.default_rng(9).normal(size=(2, step, step)).astype(np.float32)
    fit, check, truth = (pairs(seed, places, weights) for seed in range(3))
    inversion = PatchRidge(fit, check, step, 10**6, seed=0)
    error = np.abs(inversion(truth.maps) - truth.inputs).max()
    assert error < 0.02
    # Not the pixels of a block: a code of one position would have 1,024 of them.
    assert len(inversion._solution) <= 2 * 49 + min(step * step, places * places) + 1
    if places == 1:
        np.testing.assert_allclose(
            inversion(truth.maps), global_ridge(fit, check)(truth.maps), atol=0.02
        )


def test_maps_without_information_give_the_mean_image() -> None:
    weights = np.zeros((2, 8, 8), np.float32)
    fit, check, truth = (pairs(seed, 4, weights) for seed in range(3))
    rebuilt = PatchRidge(fit, check, 8, 10**6, seed=0)(truth.maps)
    assert np.abs(rebuilt - fit.inputs.mean(axis=0)).max() < 0.02
