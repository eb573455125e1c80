"""On which samples a run stands: what may be compared, and what starts over when they change.

A validation loss is comparable only with one of the same samples, weighed alike. So when the
samples change (a site joins, a patient withdraws), the weights kept as the best are measured again
on those of now: the later epochs have to beat that figure, and early stopping counts from the
change on. To drop the best instead would leave the run without weights to publish until an epoch
is done, and would replace good weights by whatever that epoch brings.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field

import torch
from torch import nn

from sltool.server.store import StoredSamples
from sltool.server.training.objective import Objective


@dataclass(frozen=True)
class TrainingData:
    """What a run trains on."""

    train: StoredSamples
    validation: StoredSamples


@dataclass(frozen=True)
class Basis:
    """Digests of the training samples, and of all that a validation loss depends on.

    The latter are the validation samples and the weights of the classes, which follow from the
    training labels; '' where there are no such samples.
    """

    train: str = ""
    validation: str = ""

    @classmethod
    def of(cls, data: TrainingData, objective: Objective) -> Basis:
        weights = objective.class_weights
        weighed = b"" if weights is None else weights.cpu().numpy().tobytes()
        return cls(_digest(data.train), _digest(data.validation, weighed))


@dataclass(frozen=True)
class Best:
    """The weights with the lowest validation loss so far; epoch 0: there are none yet.

    Attributes:
        loss: on the validation samples of now; infinite where there are none.
        figures: that epoch's losses and accuracy, the validation's measured on those samples.
        weights: state dict of the server network.
    """

    epoch: int = 0
    loss: float = math.inf
    figures: dict[str, float] = field(default_factory=dict)
    weights: dict[str, torch.Tensor] = field(default_factory=dict)

    def network(self) -> dict[str, torch.Tensor]:
        """The weights on the CPU and in plain memory order."""
        return {name: value.cpu().contiguous() for name, value in self.weights.items()}


def copied(network: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict, as it is now."""
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def _digest(samples: StoredSamples, more: bytes = b"") -> str:
    """Of a set of samples, which their random pseudonyms tell apart, in their order."""
    if not len(samples):
        return ""
    return hashlib.sha256(samples.pseudonyms.tobytes() + more).hexdigest()
