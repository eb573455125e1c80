"""Distances between views and feature maps: what an attacker makes of single bits."""

from __future__ import annotations

import numpy as np

from sltool.site.audit.metric import BitOdds, Mahalanobis

PATIENTS, BITS = 300, 24


def _views(seed: int, spread: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shipped bits (with noise) of two halves of the patients, and the values of their views."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(2 * PATIENTS, BITS)).astype(np.float32)
    noisy = values + rng.normal(size=values.shape) * 0.7
    shipped = np.where(noisy > 0, 1, -1).astype(np.float32)
    views = values + rng.normal(size=values.shape).astype(np.float32) * np.float32(spread)
    return shipped, views, np.sign(views)


def _found(scores: np.ndarray) -> float:
    return float((scores.argmax(axis=1) == np.arange(len(scores))).mean())


def test_unquantised_views_find_more_single_bits_than_bits_do() -> None:
    shipped, views, bits = _views(0, 0.2)
    known, attacked = slice(PATIENTS), slice(PATIENTS, None)
    odds = BitOdds(shipped[known], views[known])
    by_values = _found(odds.log_odds(views[attacked], shipped[attacked]))
    metric = Mahalanobis(shipped[known], bits[known])
    by_bits = max(
        _found(-metric.distances(bits[attacked], shipped[attacked])),
        _found(-metric.euclidean(bits[attacked], shipped[attacked])),
    )
    assert by_values > by_bits + 0.1
    assert by_bits > 0.1


def test_bits_that_say_nothing_of_the_patient_find_nobody() -> None:
    shipped, views, _ = _views(1, 0.2)
    strangers = np.random.default_rng(2).permutation(shipped)
    odds = BitOdds(strangers[:PATIENTS], views[:PATIENTS])
    assert _found(odds.log_odds(views[PATIENTS:], strangers[PATIENTS:])) < 0.03
    constant = np.ones_like(shipped)
    odds = BitOdds(constant[:PATIENTS], views[:PATIENTS])
    assert _found(odds.log_odds(views[PATIENTS:], constant[PATIENTS:])) < 0.03


def test_log_odds_are_those_of_the_bits_one_by_one() -> None:
    shipped, views, _ = _views(3, 0.5)
    odds = BitOdds(shipped[:PATIENTS], views[:PATIENTS])
    whole = odds.log_odds(views[:4], shipped[:3])
    share = np.clip((shipped[:PATIENTS] > 0).mean(axis=0), 0.01, 0.99)
    slope, offset = odds._slope.detach().numpy(), odds._offset.detach().numpy()
    for view in range(4):
        chance = 1 / (1 + np.exp(-(views[view] * slope + offset)))
        for row in range(3):
            one = shipped[row] > 0
            expected = np.log(np.where(one, chance / share, (1 - chance) / (1 - share))).sum()
            assert abs(whole[view, row] - expected) < 1e-3
