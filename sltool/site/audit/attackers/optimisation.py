"""White-box inversion by gradient descent on the image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sltool.registry import attackers
from sltool.site.audit.attacker import Attempt, Reconstructor, Scene, doublings

Array = NDArray[Any]

# Weights of the prior: the mean absolute difference of neighbours (total variation; Mahendran &
# Vedaldi, "Understanding Deep Image Representations by Inverting Them", 2015).
PRIORS = (1e-3, 1e-2, 1e-1)
RATE = 0.02
# The prior's weight is chosen on TRIED images, with the steps divided by SHARE.
TRIED, SHARE = 8, 2


@attackers.register("optimisation")
class Optimisation(Reconstructor):
    """Optimises an image until its feature map matches the shipped one, by the layer's weights.

    Starts from the mean of the known images; a few known pairs choose the weight of the prior.
    """

    unit = "steps"

    def skip_reason(self, scene: Scene) -> str:
        return "" if scene.is_image else "for images"

    def rebuild(self, scene: Scene) -> Iterator[Attempt]:
        budget = scene.budget
        tried = scene.check.part(np.arange(min(len(scene.check), TRIED)))
        steps = max(1, budget.descent // SHARE)

        def error(prior: float) -> float:
            *_, last = _descend(scene, tried.maps, prior, [steps])
            return float(((last.rebuilt - tried.inputs) ** 2).mean())

        prior = min(PRIORS, key=error)
        yield from _descend(scene, scene.maps[: budget.optimised], prior, doublings(budget.descent))


def _descend(scene: Scene, maps: Array, prior: float, marks: list[int]) -> Iterator[Attempt]:
    wanted = torch.from_numpy(maps).to(scene.device)
    mean = torch.from_numpy(scene.mean).to(scene.device)
    images = mean.expand(len(maps), -1, -1, -1).clone().requires_grad_()
    spread = float(wanted.var()) + 1e-12
    optimizer = torch.optim.Adam([images], lr=RATE)
    for step in range(1, marks[-1] + 1):
        error = ((scene.forward(images) - wanted) ** 2).mean() / spread
        # The mean over images scales the gradients, to which Adam is invariant.
        loss = error + prior * _variation(images)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            images.clamp_(0, 1)
        if step in marks:
            yield Attempt(step, images.detach().cpu().numpy().copy())


def _variation(images: torch.Tensor) -> torch.Tensor:
    down = (images[:, :, 1:] - images[:, :, :-1]).abs().mean()
    return down + (images[:, :, :, 1:] - images[:, :, :, :-1]).abs().mean()
