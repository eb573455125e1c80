"""The noise: its distribution, and that nobody can compute it again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from scipy import stats

from sltool.site.noise import BLOCK, _box_muller, fresh_noise, standard_normal

KEY = bytes(range(32))


def test_the_draws_are_standard_normal() -> None:
    draws = standard_normal(KEY, 2_000_000).astype(float)
    assert abs(draws.mean()) < 4 / len(draws) ** 0.5
    assert draws.std() == pytest.approx(1, abs=4 / len(draws) ** 0.5)
    assert stats.kstest(draws, "norm").pvalue > 0.001
    for sds in (3, 4):
        expected = 2 * stats.norm.sf(sds) * len(draws)
        assert (abs(draws) > sds).sum() == pytest.approx(expected, abs=5 * expected**0.5)


def test_draws_are_independent() -> None:
    blocks = standard_normal(KEY, 20 * BLOCK).reshape(20, 2, BLOCK // 2)
    radius, angle = blocks[:, 0], blocks[:, 1]
    for first, other in (
        (radius, angle),
        (radius**2, angle**2),
        (radius[1:], radius[:-1]),
        (radius[:, 1:], radius[:, :-1]),
    ):
        assert abs(np.corrcoef(first.ravel(), other.ravel())[0, 1]) < 0.006


@pytest.mark.parametrize("count", [0, 1, 2, 7, BLOCK - 1, BLOCK + 1])
def test_any_number_can_be_drawn(count: int) -> None:
    draws = standard_normal(KEY, count)
    assert draws.shape == (count,)
    assert draws.dtype == np.float32
    assert np.isfinite(draws).all()


def test_each_call_has_a_key_of_its_own() -> None:
    maps = torch.zeros(3, 2, 5, 7)
    first, second = fresh_noise(maps), fresh_noise(maps)
    assert first.shape == maps.shape
    assert not (first == second).any()


def test_the_seeds_of_torch_and_numpy_do_not_affect_the_noise() -> None:
    drawn = []
    for _ in range(2):
        torch.manual_seed(0)
        np.random.seed(0)
        drawn.append(fresh_noise(torch.zeros(100)))
    assert not torch.equal(*drawn)


def test_the_tail_is_as_long_as_a_stated_epsilon_needs() -> None:
    """Noise that cannot exceed 6.8 would show a shift of several deviations for certain."""
    excess = []
    for key in range(3000):
        stream = Cipher(ChaCha20(key.to_bytes(32), bytes(16)), mode=None).encryptor()
        # The radius word 0 is drawn once in 2**32; the angle 0 has the cosine 1.
        draw = _box_muller(np.zeros(2, "<u4"), stream)[0]
        excess.append(draw**2 / 2 - 32 * np.log(2))
    # The square of the radius beyond any point of the tail is exponentially distributed.
    assert stats.kstest(excess, "expon").pvalue > 0.001
