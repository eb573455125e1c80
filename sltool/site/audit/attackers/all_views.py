"""Decoders of an attacker who combines all views of a sample.

The views of a training image are other versions of it, each with a noise of its own, which their
mean reduces.
"""

from __future__ import annotations

from collections.abc import Iterator

from sltool.registry import attackers
from sltool.site.audit.attacker import Attempt, Reconstructor, Scene
from sltool.site.audit.decoders import convolutional, dense
from sltool.site.audit.ridge import stride


class _AllViews(Reconstructor):
    unit = "steps"

    def skip_reason(self, scene: Scene) -> str:
        several = all((pairs.views > 1).any() for pairs in (scene, scene.fit, scene.check))
        return "" if several else "one view of each sample was shipped"


@attackers.register("all-views-conv-decoder")
class AllViewsConvDecoder(_AllViews):
    """A convolutional network that has the mean of a sample's shipped views, beside the first."""

    def skip_reason(self, scene: Scene) -> str:
        fits = stride(scene)
        return super().skip_reason(scene) or ("" if fits else "the feature map is not a grid")

    def rebuild(self, scene: Scene) -> Iterator[Attempt]:
        scene = scene.with_means()
        return convolutional(scene, scene.fit, scene.check)


@attackers.register("all-views-dense-decoder")
class AllViewsDenseDecoder(_AllViews):
    """A network that sees the whole first feature map and the mean of all shipped views at once."""

    def rebuild(self, scene: Scene) -> Iterator[Attempt]:
        scene = scene.with_means()
        return dense(scene, scene.fit, scene.check)
