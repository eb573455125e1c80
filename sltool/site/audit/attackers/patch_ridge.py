"""Linear inversion of a convolution."""

from __future__ import annotations

from collections.abc import Iterator

from sltool.registry import attackers
from sltool.site.audit.attacker import Attempt, Reconstructor, Scene, doublings
from sltool.site.audit.ridge import PatchRidge as Inversion
from sltool.site.audit.ridge import stride


@attackers.register("patch-ridge")
class PatchRidge(Reconstructor):
    """A linear map from each feature-map position and its neighbours to the pixels there."""

    unit = "patches"

    def skip_reason(self, scene: Scene) -> str:
        return "" if stride(scene) else "the feature map is not a grid over the image"

    def rebuild(self, scene: Scene) -> Iterator[Attempt]:
        places = scene.maps.shape[2] * scene.maps.shape[3]
        for rows in doublings(min(scene.budget.rows, len(scene.fit) * places)):
            found = Inversion(scene.fit, scene.check, stride(scene), rows, scene.seed)
            yield Attempt(rows, found(scene.maps))
