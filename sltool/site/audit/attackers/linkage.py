"""Whose feature map is this?"""

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
# With fewer patients who have two samples a rate says nothing.
FEWEST = 20


@attackers.register("linkage")
class Linkage(Inferrer):
    """Finds a patient's feature map among others by another view, or another sample, of his."""

    def infer(self, scene: Scene, truth: Pairs) -> list[Inference]:
        metric = ViewMetric(scene)
        first = _first_of_each(truth.groups)
        pool = _pool(scene, truth.maps[first])
        queries = scene.encode(scene.views(truth.inputs[first]))
        kind = "view of his image" if scene.is_image else "measurement of his values"
        found = [
            _rate("linkage_top1", f"by another {kind}", metric, queries, pool, truth.groups[first])
        ]
        others = np.setdiff1d(np.arange(len(truth)), first)
        mates = others[_first_of_each(truth.groups[others])]
        if len(mates) >= FEWEST:
            place = {group: number for number, group in enumerate(truth.groups[first])}
            order = [place[group] for group in truth.groups[mates]]
            rest = np.delete(np.arange(len(pool)), order)
            queries = scene.encode(truth.inputs[mates])
            pool = np.concatenate([pool[order], pool[rest]])
            groups = truth.groups[mates]
            told = "by another sample of the same patient"
            found.append(_rate("linkage_other_sample_top1", told, metric, queries, pool, groups))
        return found


def _first_of_each(groups: Array) -> Array:
    return np.sort(np.unique(groups, return_index=True)[1])


def _pool(scene: Scene, maps: Array) -> Array:
    """The maps under attack, then those of other patients up to the pool's size."""
    known = [one.maps[_first_of_each(one.groups)] for one in (scene.check, scene.fit)]
    return np.concatenate([maps, *known])[: max(POOL, len(maps))]


def _rate(
    name: str, told: str, metric: ViewMetric, queries: Array, pool: Array, groups: Array
) -> Inference:
    """How often query number i is nearest to number i of the pool; the better distance counts."""
    numbers = np.arange(len(queries))
    hits = [
        distances.argmin(axis=1) == numbers
        for distances in (metric.distances(queries, pool), metric.plain(queries, pool))
    ]
    best = max(hits, key=lambda one: float(one.mean()))
    sentence = f"a patient's feature map found {told} among {len(pool)} patients, at the first try"
    return Inference(name, mean_figure(best, groups, seed=0), 1 / len(pool), sentence)
