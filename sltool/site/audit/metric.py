"""Distances of feature maps from views, learned from the views of other patients.

The attacker has the privacy layer, and can encode other views of the patients that it knows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from sltool.site.audit.attacker import Scene
from sltool.site.audit.ridge import Scale

Array = NDArray[Any]

# Most principal components of the feature maps that a distance uses.
COMPONENTS = 128
KNOWN = 1000
# Added to the covariance, relative to the mean variance, to make it invertible.
FLOOR = 0.05


# Steps and rate of the fit of `BitOdds`.
STEPS, RATE = 200, 0.05
# A bit that nearly all known maps share is taken as at least so rare.
RAREST = 0.01


class ViewMetric:
    """Distances between views and feature maps, by each of several measures.

    Args:
        means: the feature maps are means of all views of a sample that were shipped.
    """

    def __init__(self, scene: Scene, means: bool = False) -> None:
        self._scene = scene
        known = scene.fit.part(np.arange(min(len(scene.fit), KNOWN)))
        shipped = known.means if means else known.maps
        views = scene.another_view(known.inputs)
        self._mahalanobis = Mahalanobis(shipped, scene.encode(views))
        single_bits = scene.levels is not None and scene.levels.bits == 1
        self._odds = BitOdds(shipped, scene.unquantised(views)) if single_bits else None

    def distances(self, views: Array, maps: Array) -> list[Array]:
        """Inputs (q, *shape) and feature maps (m, ...) -> (q, m) by each measure."""
        queries = self._scene.encode(views)
        found = [
            self._mahalanobis.distances(queries, maps),
            self._mahalanobis.euclidean(queries, maps),
        ]
        if self._odds is not None:
            found.append(-self._odds.log_odds(self._scene.unquantised(views), maps))
        return found


class Mahalanobis:
    """Mahalanobis distance under the covariance of the differences between two views' maps.

    Args:
        shipped: (n, ...) feature maps.
        others: (n, ...) those of another view of each.
    """

    def __init__(self, shipped: Array, others: Array) -> None:
        self._scale = Scale.fit(shipped)
        values = self._scale(shipped).flatten(1)
        self._mean = values.mean(dim=0)
        components = min(COMPONENTS, *values.shape)
        _, _, self._axes = torch.svd_lowrank(values - self._mean, q=components)
        differences = self._project(shipped) - self._project(others)
        covariance = (differences.T @ differences).double() / len(differences)
        floor = FLOOR * covariance.diagonal().mean() + 1e-12
        regularised = covariance + floor * torch.eye(len(covariance)).double()
        self._whitening = torch.linalg.inv(torch.linalg.cholesky(regularised)).T.float()

    def _project(self, maps: Array) -> torch.Tensor:
        return (self._scale(maps).flatten(1) - self._mean) @ self._axes

    def distances(self, queries: Array, maps: Array) -> Array:
        """Feature maps (q, ...) and (m, ...) -> (q, m)."""
        x, y = (self._project(batch) @ self._whitening for batch in (queries, maps))
        return np.asarray(torch.cdist(x, y).numpy())

    def euclidean(self, queries: Array, maps: Array) -> Array:
        """The Euclidean distances of the standardised maps, (q, m)."""
        x, y = (self._scale(batch).flatten(1) for batch in (queries, maps))
        return np.asarray(torch.cdist(x, y).numpy())


class BitOdds:
    """How much likelier shipped bits are given a view than without it.

    The values of a view before they are rounded say how sure each bit is, which its own bits do
    not: a bit near zero differs between views, and noise turns it. Each bit's probability is a
    logistic function of the view's value.

    Args:
        shipped: (n, ...) feature maps of single bits, as levels.
        values: (n, ...) the unquantised feature maps of another view of each.
    """

    def __init__(self, shipped: Array, values: Array) -> None:
        self._middle = (shipped.min() + shipped.max()) / 2
        bits, x = self._bits(shipped), torch.from_numpy(values).flatten(1)
        self._slope = torch.ones(bits.shape[1], requires_grad=True)
        self._offset = torch.zeros(bits.shape[1], requires_grad=True)
        optimizer = torch.optim.Adam([self._slope, self._offset], lr=RATE)
        for _ in range(STEPS):
            loss = F.binary_cross_entropy_with_logits(self._logits(x), bits)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        share = bits.mean(dim=0).clamp(RAREST, 1 - RAREST)
        self._prior = share.logit()
        self._prior_of_zeros = torch.log1p(-share).sum()

    @torch.no_grad()
    def log_odds(self, values: Array, maps: Array) -> Array:
        """Unquantised maps of views (q, ...) and shipped maps (m, ...) -> (q, m)."""
        logits = self._logits(torch.from_numpy(values).flatten(1))
        zeros = F.logsigmoid(-logits).sum(dim=1, keepdim=True) - self._prior_of_zeros
        return np.asarray((zeros + (logits - self._prior) @ self._bits(maps).T).numpy())

    def _logits(self, values: torch.Tensor) -> torch.Tensor:
        return values * self._slope + self._offset

    def _bits(self, maps: Array) -> torch.Tensor:
        return torch.gt(torch.from_numpy(maps).flatten(1), self._middle).float()
