"""The samples of a run, their digests, and the best weights so far.

Validation losses are comparable only on the same samples with the same class weights. When the
samples change (a site joins, a patient withdraws), the best weights are therefore evaluated again
on the current samples: later epochs have to beat that loss, and early stopping counts from the
change on. Discarding the best weights instead would leave the run without weights to publish until
the next epoch ends, and would then replace them even with worse ones.
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
    """The training and validation samples of a run."""

    train: StoredSamples
    validation: StoredSamples


@dataclass(frozen=True)
class Basis:
    """Digests of the training samples, and of everything that the validation loss depends on.

    The latter covers the validation samples and the class weights, which follow from the training
    labels. A digest is '' where there are no samples.
    """

    train: str = ""
    validation: str = ""

    @classmethod
    def from_data(cls, data: TrainingData, objective: Objective) -> Basis:
        weights = objective.class_weights
        weight_bytes = b"" if weights is None else weights.cpu().numpy().tobytes()
        return cls(_digest(data.train), _digest(data.validation, weight_bytes))


@dataclass(frozen=True)
class Best:
    """The weights with the lowest validation loss so far; epoch 0: there are none yet.

    Attributes:
        loss: on the current validation samples; infinite where there are none.
        figures: the epoch's losses and accuracy, on the current validation samples.
        weights: state dict of the server network.
    """

    epoch: int = 0
    loss: float = math.inf
    figures: dict[str, float] = field(default_factory=dict)
    weights: dict[str, torch.Tensor] = field(default_factory=dict)

    def network(self) -> dict[str, torch.Tensor]:
        """The weights on the CPU, contiguous."""
        return {name: value.cpu().contiguous() for name, value in self.weights.items()}


def copied_state(network: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of the network's state dict."""
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def _digest(samples: StoredSamples, extra: bytes = b"") -> str:
    """SHA-256 of the samples' pseudonyms in order, and of `extra`; '' without samples."""
    if not len(samples):
        return ""
    return hashlib.sha256(samples.pseudonyms.tobytes() + extra).hexdigest()
