"""Membership inference: is this patient in the shard?"""

from __future__ import annotations

import numpy as np

from sltool.registry import attackers
from sltool.site.audit.attacker import Inference, Inferrer, Pairs, Scene
from sltool.site.audit.measures import Figure, bootstrap
from sltool.site.audit.metric import ViewMetric


@attackers.register("membership")
class Membership(Inferrer):
    """Decides, by another view of a patient, whether a shard contains the patient's feature map."""

    def infer(self, scene: Scene, truth: Pairs) -> list[Inference]:
        attacks = [(ViewMetric(scene), truth.maps)]
        if truth.views.max() > 1:
            attacks.append((ViewMetric(scene, means=True), truth.means))
        # The patients with an even index are the members of the shard in this attack.
        member = truth.groups % 2 == 0
        if member.all() or not member.any():
            return []
        views = scene.another_view(truth.inputs)
        nearest = [
            distances.min(axis=1)
            for metric, maps in attacks
            for distances in metric.distances(views, maps[member])
        ]
        figures = [_auc(-distances, member, truth.groups) for distances in nearest]
        figure = max(figures, key=lambda figure: figure.value)
        description = "area under the ROC curve of membership in a shard, by another view"
        return [Inference("membership_auc", figure, 0.5, description)]


def _auc(scores: np.ndarray, member: np.ndarray, groups: np.ndarray) -> Figure:
    """The probability that a member scores higher than a non-member, from scores (n,)."""
    wins = (scores[:, None] > scores[None, :]) + 0.5 * (scores[:, None] == scores[None, :])
    wins = wins * (member[:, None] & ~member[None, :])

    def statistic(shares: np.ndarray) -> np.ndarray:
        won = ((shares @ wins) * shares).sum(axis=1)
        pairs = (shares @ member) * (shares @ ~member)
        return np.asarray(np.where(pairs > 0, won / np.maximum(pairs, 1e-300), np.nan))

    return bootstrap(statistic, groups, 0, len(scores))
