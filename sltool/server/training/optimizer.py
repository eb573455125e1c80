"""The optimiser and the learning rate's schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from sltool.study.schema import Training


class OptimizerStep:
    """The weights of `network` going down the gradient as the study says."""

    def __init__(self, network: nn.Module, settings: Training) -> None:
        self.optimizer = make_optimizer(network, settings)
        self._network = network
        self._settings = settings
        self._factor = schedule(settings)

    def set_rate(self, epochs: float) -> None:
        """The learning rate after so many epochs, a fraction of one included."""
        rate = self._settings.learning_rate * self._factor(epochs / self._settings.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def step(self, loss: torch.Tensor) -> None:
        """One step down the gradient of `loss`, which is clipped if the study says so."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self._settings.clip_gradient is not None:
            nn.utils.clip_grad_norm_(self._network.parameters(), self._settings.clip_gradient)
        self.optimizer.step()


def make_optimizer(network: nn.Module, settings: Training) -> torch.optim.Optimizer:
    """The study's optimiser over all weights of `network`, in its fused form."""
    options: dict[str, Any] = {
        "lr": settings.learning_rate,
        "weight_decay": settings.weight_decay,
        "fused": True,
    }
    if settings.optimizer == "sgd":
        return torch.optim.SGD(network.parameters(), momentum=0.9, **options)
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return kind(network.parameters(), **options)


def schedule(settings: Training) -> Callable[[float], float]:
    """The factor on the learning rate, given the share of the run's steps that is done."""
    if settings.schedule == "cosine":
        return lambda done: 0.5 * (1 + math.cos(math.pi * done))
    if settings.schedule == "one-cycle":
        # Smith & Topin, "Super-Convergence", 2018: up over the first 30 %, then down to nothing.
        return lambda done: (
            0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * done / 0.3))
            if done < 0.3
            else 0.5 * (1 + math.cos(math.pi * (done - 0.3) / 0.7))
        )
    return lambda done: 1.0
