"""How like two feature maps are: a distance learned from what other patients' views differ by."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sltool.site.audit.attacker import Scene
from sltool.site.audit.ridge import Scale

Array = NDArray[Any]

# Principal components of the feature maps that a distance looks at, at most.
COMPONENTS = 128
KNOWN = 1000
# Beside the mean variance between views: no direction is without any.
FLOOR = 0.05


class ViewMetric:
    """Mahalanobis distance by the covariance between a shipped map and another view's map.

    The attacker has the privacy layer, so he can encode other views of patients whom he knows.
    """

    def __init__(self, scene: Scene) -> None:
        known = scene.fit.part(np.arange(min(len(scene.fit), KNOWN)))
        self._scale = Scale.of(known.maps)
        shipped = self._scale(known.maps).flatten(1)
        self._mean = shipped.mean(dim=0)
        count = min(COMPONENTS, *shipped.shape)
        _, _, axes = torch.svd_lowrank(shipped - self._mean, q=count)
        self._axes = axes
        viewed = self._project(scene.encode(scene.views(known.inputs)))
        between = self._project(known.maps) - viewed
        covariance = (between.T @ between).double() / len(between)
        floor = FLOOR * covariance.diagonal().mean() + 1e-12
        whole = covariance + floor * torch.eye(len(covariance)).double()
        self._whitening = torch.linalg.inv(torch.linalg.cholesky(whole)).T.float()

    def _project(self, maps: Array) -> torch.Tensor:
        return (self._scale(maps).flatten(1) - self._mean) @ self._axes

    def distances(self, queries: Array, maps: Array) -> Array:
        """Feature maps (q, ...) and (m, ...) -> (q, m)."""
        one, other = (self._project(one) @ self._whitening for one in (queries, maps))
        return np.asarray(torch.cdist(one, other).numpy())

    def plain(self, queries: Array, maps: Array) -> Array:
        """The Euclidean distances of the standardised maps, (q, m)."""
        one, other = (self._scale(one).flatten(1) for one in (queries, maps))
        return np.asarray(torch.cdist(one, other).numpy())
