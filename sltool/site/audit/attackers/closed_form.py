"""Inversion of dense layers: exact if they have as many outputs as inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sltool.registry import attackers
from sltool.site.audit.attacker import Attempt, Reconstructor, Scene, doublings

Array = NDArray[Any]

# Rounding in float16: the relative standard deviation of a value (uniform in half a unit).
ROUNDING = 2.0**-11 / 3**0.5
SMALLEST = 1e-6


@attackers.register("closed-form")
class ClosedForm(Reconstructor):
    """Inverts dense layers by their weights: the activation's inverse, then a linear system.

    If noise, rounding or too few outputs leave the row undetermined, the estimate is the mean of
    the Gaussian posterior under the mean and covariance of the known rows.
    """

    def skip_reason(self, scene: Scene) -> str:
        if scene.is_image:
            return "for table rows"
        if any(type(step) not in (*_INVERSES, nn.Linear) for step in _steps(scene.layer)):
            return "the privacy layer has modules other than dense layers and common activations"
        if scene.levels is not None and scene.levels.bits == 1:
            return "a value of one bit determines no value before it"
        return ""

    def rebuild(self, scene: Scene) -> Iterator[Attempt]:
        for pairs in doublings(len(scene.fit)):
            yield Attempt(pairs, _invert(scene, scene.fit.inputs[:pairs]))


def _steps(layer: nn.Module) -> list[nn.Module]:
    """The layer's leaf modules in order, without identities."""
    return [
        module
        for module in layer.modules()
        if not list(module.children()) and not isinstance(module, nn.Sequential | nn.Identity)
    ]


@torch.no_grad()
def _invert(scene: Scene, known: Array) -> Array:
    """The rows (n, columns) from the maps: inverts the steps in reverse order.

    Each step uses the mean and covariance of the known rows' values before it.
    """
    steps = _steps(scene.layer)
    # The samples before each step.
    before = [scene.standardise(torch.from_numpy(known).to(scene.device)).double().cpu()]
    for step in steps:
        before.append(_apply(step, before[-1]))
    values = torch.from_numpy(scene.maps).double()
    variance = scene.noise**2 + _rounding(scene, values) ** 2 + SMALLEST**2
    for step, samples in zip(reversed(steps), reversed(before[:-1]), strict=True):
        if isinstance(step, nn.Linear):
            values, variance = _linear(step, values, variance, samples)
        else:
            values, variance = _INVERSES[type(step)](step, values, variance)
    if not steps:
        values = _posterior(torch.eye(values.shape[1]).double(), values, variance, before[0])
    return np.asarray(values.float().numpy())


def _rounding(scene: Scene, values: torch.Tensor) -> torch.Tensor:
    """The standard deviation of each value's rounding error, uniform in a unit or a step."""
    if scene.levels is None:
        return ROUNDING * values
    return torch.full_like(values, scene.levels.step / 12**0.5)


def _apply(step: nn.Module, samples: torch.Tensor) -> torch.Tensor:
    parameter = next(step.parameters(), None)
    given = samples if parameter is None else samples.to(parameter)
    found: torch.Tensor = step(given)
    return found.double().cpu()


def _linear(
    step: nn.Linear, values: torch.Tensor, variance: torch.Tensor, samples: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs (n, outputs) with variances -> inputs (n, inputs)."""
    weight = step.weight.double().cpu()
    bias = step.bias.double().cpu() if step.bias is not None else 0.0
    found = _posterior(weight, values - bias, variance, samples)
    return found, torch.full_like(found, SMALLEST**2)


def _posterior(
    weight: torch.Tensor, values: torch.Tensor, variance: torch.Tensor, samples: torch.Tensor
) -> torch.Tensor:
    """The mean of x given `values = weight @ x + noise` and x normal as `samples` are, (n, k)."""
    mean = samples.mean(dim=0)
    covariance = torch.cov(samples.T).reshape(len(mean), len(mean)) if len(samples) > 1 else 0.0
    prior = torch.linalg.inv(covariance + SMALLEST * torch.eye(len(mean)).double())
    precision = 1 / variance
    system = prior + torch.einsum("ok,no,oj->nkj", weight, precision, weight)
    side = torch.einsum("ok,no->nk", weight, precision * (values - weight @ mean))
    found: torch.Tensor = mean + torch.linalg.solve(system, side)
    return found


Inverse = Callable[[Any, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def _leaky(step: nn.LeakyReLU, y: torch.Tensor, variance: torch.Tensor) -> Any:
    slope = step.negative_slope
    below = y < 0
    return torch.where(below, y / slope, y), torch.where(below, variance / slope**2, variance)


def _relu(step: nn.Module, y: torch.Tensor, variance: torch.Tensor) -> Any:
    # An inactive unit is known to be non-positive; the Gaussian model cannot use that.
    return y, torch.where(y <= 0, 1e12, variance)


def _sigmoid(step: nn.Module, y: torch.Tensor, variance: torch.Tensor) -> Any:
    inside = y.clamp(SMALLEST, 1 - SMALLEST)
    return torch.logit(inside), variance / (inside * (1 - inside)) ** 2


def _tanh(step: nn.Module, y: torch.Tensor, variance: torch.Tensor) -> Any:
    inside = y.clamp(-1 + SMALLEST, 1 - SMALLEST)
    return torch.atanh(inside), variance / (1 - inside**2) ** 2


_INVERSES: dict[type[nn.Module], Inverse] = {
    nn.LeakyReLU: _leaky,
    nn.ReLU: _relu,
    nn.Sigmoid: _sigmoid,
    nn.Tanh: _tanh,
}
