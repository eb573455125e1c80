"""Linkage: which patient does a feature map belong to?"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sltool.registry import attackers
from sltool.site.audit.attacker import Inference, Inferrer, Pairs, Scene
from sltool.site.audit.measures import mean_figure
from sltool.site.audit.metric import ViewMetric

Array = NDArray[Any]

POOL = 500
# With fewer patients who have two samples, a rate is not informative.
FEWEST = 20


@attackers.register("linkage")
class Linkage(Inferrer):
    """Finds a patient's feature map among others, by another view or sample of the patient."""

    def infer(self, scene: Scene, truth: Pairs) -> list[Inference]:
        metric = ViewMetric(scene)
        first = _first_of_each(truth.groups)
        pool = _pool(scene, truth.maps[first])
        views = scene.views(truth.inputs[first])
        kind = "view of the image" if scene.is_image else "measurement of the values"
        inferences = [
            _rate("linkage_top1", f"by another {kind}", metric, views, pool, truth.groups[first])
        ]
        others = np.setdiff1d(np.arange(len(truth)), first)
        mates = others[_first_of_each(truth.groups[others])]
        if len(mates) >= FEWEST:
            pool_row = {group: row for row, group in enumerate(truth.groups[first])}
            order = [pool_row[group] for group in truth.groups[mates]]
            rest = np.delete(np.arange(len(pool)), order)
            samples = truth.inputs[mates]
            pool = np.concatenate([pool[order], pool[rest]])
            groups = truth.groups[mates]
            method = "by another sample of the same patient"
            inferences.append(
                _rate("linkage_other_sample_top1", method, metric, samples, pool, groups)
            )
        return inferences


def _first_of_each(groups: Array) -> Array:
    return np.sort(np.unique(groups, return_index=True)[1])


def _pool(scene: Scene, maps: Array) -> Array:
    """The maps under attack, followed by those of other patients, up to the pool's size."""
    known = [pairs.maps[_first_of_each(pairs.groups)] for pairs in (scene.check, scene.fit)]
    return np.concatenate([maps, *known])[: max(POOL, len(maps))]


def _rate(
    name: str, method: str, metric: ViewMetric, views: Array, pool: Array, groups: Array
) -> Inference:
    """How often view i is nearest to row i of the pool, under the best of the distances."""
    expected = np.arange(len(views))
    hits = [distances.argmin(axis=1) == expected for distances in metric.distances(views, pool)]
    best = max(hits, key=lambda hit: float(hit.mean()))
    description = f"a patient's feature map found {method} among {len(pool)} patients, first try"
    return Inference(name, mean_figure(best, groups, seed=0), 1 / len(pool), description)
