"""Decoders of an attacker who knows only the privacy layer and public images, no patient."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sltool.registry import attackers
from sltool.site.audit.attacker import Attempt, Pairs, Reconstructor, Scene
from sltool.site.audit.decoders import convolutional, dense
from sltool.site.audit.ridge import stride

CHECKED = 0.15


class _Public(Reconstructor):
    unit = "steps"
    knowledge = "public images"

    def skip_reason(self, scene: Scene) -> str:
        return "" if scene.public else "no public images were given (--auxiliary DIR)"


@attackers.register("public-conv-decoder")
class PublicConvDecoder(_Public):
    """A convolutional network trained on public images alone."""

    def skip_reason(self, scene: Scene) -> str:
        fits = stride(scene)
        return super().skip_reason(scene) or ("" if fits else "the feature map is not a grid")

    def rebuild(self, scene: Scene) -> Iterator[Attempt]:
        return convolutional(scene, *_fit_and_check(scene))


@attackers.register("public-dense-decoder")
class PublicDenseDecoder(_Public):
    """A network that sees the whole feature map at once, trained on public images alone."""

    def rebuild(self, scene: Scene) -> Iterator[Attempt]:
        return dense(scene, *_fit_and_check(scene))


def _fit_and_check(scene: Scene) -> tuple[Pairs, Pairs]:
    """Public pairs to learn from, and others for model selection."""
    public = scene.public
    if public is None:
        raise ValueError("there are no public images")
    order = np.random.default_rng(scene.seed).permutation(len(public))[: scene.budget.samples]
    count = max(1, int(CHECKED * len(order)))
    return public.part(order[count:]), public.part(order[:count])
