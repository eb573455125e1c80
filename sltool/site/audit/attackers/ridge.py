"""Linear inversion of the whole feature map."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sltool.registry import attackers
from sltool.site.audit.attacker import Attempt, Reconstructor, Scene, doublings
from sltool.site.audit.ridge import MOST_PAIRS, global_ridge


@attackers.register("ridge")
class Ridge(Reconstructor):
    """A linear map from feature maps to samples, fitted to pairs of other patients."""

    def rebuild(self, scene: Scene) -> Iterator[Attempt]:
        for pairs in doublings(min(len(scene.fit), MOST_PAIRS)):
            found = global_ridge(scene.fit.part(np.arange(pairs)), scene.check)
            yield Attempt(pairs, found(scene.maps))
