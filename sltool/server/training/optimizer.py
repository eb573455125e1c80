"""The optimiser and the learning-rate schedule."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from sltool.study.schema import Training

# torch.optim.Optimizer wraps these methods by `torch._disable_dynamo`, whose first call imports
# torch._dynamo (and sympy with it): 0.9 of the 2.2 s that a short run takes, and 68 MB, for a
# compiler that is not used here. `functools.wraps` leaves the method itself in `__wrapped__`, which
# `inspect.unwrap` follows; a method that some release of torch does not wrap stays as it is.
WRAPPED = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")


class OptimizerStep:
    """The optimiser of `network` with the study's schedule and gradient clipping."""

    def __init__(self, network: nn.Module, settings: Training) -> None:
        self.optimizer = make_optimizer(network, settings)
        self._network = network
        self._settings = settings
        self._factor = schedule(settings)

    def set_rate(self, epochs: float) -> None:
        """Set the learning rate for the time `epochs` (may be fractional) since the run began."""
        rate = self._settings.learning_rate * self._factor(epochs / self._settings.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def step(self, loss: torch.Tensor) -> None:
        """One optimiser step on `loss`; the gradient is clipped if the study says so."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self._settings.clip_gradient is not None:
            nn.utils.clip_grad_norm_(self._network.parameters(), self._settings.clip_gradient)
        self.optimizer.step()


def make_optimizer(network: nn.Module, settings: Training) -> torch.optim.Optimizer:
    """The study's optimiser over all weights of `network`, in torch's fused implementation."""
    options: dict[str, Any] = {
        "lr": settings.learning_rate,
        "weight_decay": settings.weight_decay,
        "fused": True,
    }
    if settings.optimizer == "sgd":
        return _uncompiled(torch.optim.SGD)(network.parameters(), momentum=0.9, **options)
    optimizer = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return _uncompiled(optimizer)(network.parameters(), **options)


def _uncompiled(optimizer: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """The same optimiser, whose methods do not import torch._dynamo."""
    methods: dict[str, Any] = {name: inspect.unwrap(getattr(optimizer, name)) for name in WRAPPED}
    # `step` is wrapped twice: the outer wrapper is for the compiler, the inner is `no_grad`.
    methods["step"] = torch.no_grad()(inspect.unwrap(optimizer.step))
    return type(optimizer.__name__, (optimizer,), methods)


def schedule(settings: Training) -> Callable[[float], float]:
    """The learning-rate factor as a function of the fraction of the run that is completed."""
    if settings.schedule == "cosine":
        return lambda fraction: 0.5 * (1 + math.cos(math.pi * fraction))
    if settings.schedule == "one-cycle":
        # Smith & Topin, "Super-Convergence", 2018: rises over the first 30 %, then falls to 0.
        return lambda fraction: (
            0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * fraction / 0.3))
            if fraction < 0.3
            else 0.5 * (1 + math.cos(math.pi * (fraction - 0.3) / 0.7))
        )
    return lambda fraction: 1.0
