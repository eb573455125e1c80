"""A decoder with a dense stem."""

from __future__ import annotations

from collections.abc import Iterator

from sltool.registry import attackers
from sltool.site.audit.attacker import Attempt, Reconstructor, Scene
from sltool.site.audit.decoders import dense


@attackers.register("dense-decoder")
class DenseDecoder(Reconstructor):
    """A network that sees the whole feature map at once, trained on pairs of other patients."""

    unit = "steps"

    def rebuild(self, scene: Scene) -> Iterator[Attempt]:
        return dense(scene, scene.fit, scene.check)
