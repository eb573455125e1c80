"""A convolutional decoder."""

from __future__ import annotations

from collections.abc import Iterator

from sltool.registry import attackers
from sltool.site.audit.attacker import Attempt, Reconstructor, Scene
from sltool.site.audit.decoders import convolutional
from sltool.site.audit.ridge import stride


@attackers.register("conv-decoder")
class ConvDecoder(Reconstructor):
    """A convolutional network trained on pairs of other patients."""

    unit = "steps"

    def skip_reason(self, scene: Scene) -> str:
        return "" if stride(scene) else "the feature map is not a grid over the image"

    def rebuild(self, scene: Scene) -> Iterator[Attempt]:
        return convolutional(scene, scene.fit, scene.check)
