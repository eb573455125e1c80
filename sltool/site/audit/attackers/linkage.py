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
MEASUREMENT = "measurement of the values"


@attackers.register("linkage")
class Linkage(Inferrer):
    """Finds a patient's feature map among others, by another view or sample of the patient."""

    def infer(self, scene: Scene, truth: Pairs) -> list[Inference]:
        metric = ViewMetric(scene)
        first = _first_of_each(truth.groups)
        known = [pairs.part(_first_of_each(pairs.groups)) for pairs in (scene.check, scene.fit)]
        pool = _pool([truth.maps[first], *(pairs.maps for pairs in known)])
        views, groups = scene.another_view(truth.inputs[first]), truth.groups[first]
        method = f"by another {'view of the image' if scene.is_image else MEASUREMENT}"
        inferences = [_rate("linkage_top1", method, metric, views, pool, groups)]
        if truth.views.max() > 1:
            means = _pool([truth.means[first], *(pairs.means for pairs in known)])
            name, method = "linkage_all_views_top1", f"{method} and the mean of all shipped views"
            metric_of_means = ViewMetric(scene, means=True)
            inferences.append(_rate(name, method, metric_of_means, views, means, groups))
        return [*inferences, *_by_another_sample(metric, truth, first, pool)]


def _by_another_sample(
    metric: ViewMetric, truth: Pairs, first: Array, pool: Array
) -> list[Inference]:
    """Queries by a second sample of each patient who has one.

    Args:
        first: rows of `truth`, each patient's first sample.
        pool: feature maps, the first ones of these samples.
    """
    others = np.setdiff1d(np.arange(len(truth)), first)
    mates = others[_first_of_each(truth.groups[others])]
    if len(mates) < FEWEST:
        return []
    pool_row = {group: row for row, group in enumerate(truth.groups[first])}
    order = [pool_row[group] for group in truth.groups[mates]]
    rest = np.delete(np.arange(len(pool)), order)
    pool = np.concatenate([pool[order], pool[rest]])
    method = "by another sample of the same patient"
    samples, groups = truth.inputs[mates], truth.groups[mates]
    return [_rate("linkage_other_sample_top1", method, metric, samples, pool, groups)]


def _first_of_each(groups: Array) -> Array:
    return np.sort(np.unique(groups, return_index=True)[1])


def _pool(maps: list[Array]) -> Array:
    """The first maps, which are under attack, followed by the others up to the pool's size."""
    return np.concatenate(maps)[: max(POOL, len(maps[0]))]


def _rate(
    name: str, method: str, metric: ViewMetric, views: Array, pool: Array, groups: Array
) -> Inference:
    """How often view i is nearest to row i of the pool, under the best of the distances."""
    expected = np.arange(len(views))
    hits = [distances.argmin(axis=1) == expected for distances in metric.distances(views, pool)]
    best = max(hits, key=lambda hit: float(hit.mean()))
    description = f"a patient's feature map found {method} among {len(pool)} patients, first try"
    return Inference(name, mean_figure(best, groups, seed=0), 1 / len(pool), description)
