"""Distances of feature maps, learned from the differences between views of other patients."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sltool.site.audit.attacker import Scene
from sltool.site.audit.ridge import Scale

Array = NDArray[Any]

# Most principal components of the feature maps that a distance uses.
COMPONENTS = 128
KNOWN = 1000
# Added to the covariance, relative to the mean variance, to make it invertible.
FLOOR = 0.05


class ViewMetric:
    """Mahalanobis distance under the covariance of the differences between two views' maps.

    The attacker has the privacy layer, and can encode other views of the known patients.
    """

    def __init__(self, scene: Scene) -> None:
        known = scene.fit.part(np.arange(min(len(scene.fit), KNOWN)))
        self._scale = Scale.fit(known.maps)
        shipped = self._scale(known.maps).flatten(1)
        self._mean = shipped.mean(dim=0)
        components = min(COMPONENTS, *shipped.shape)
        _, _, axes = torch.svd_lowrank(shipped - self._mean, q=components)
        self._axes = axes
        other_views = self._project(scene.encode(scene.views(known.inputs)))
        differences = self._project(known.maps) - other_views
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
