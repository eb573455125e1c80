"""The paper's cholesterol network: dense layers with leaky ReLU, a number at the end."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

from pydantic import Field
from torch import nn

from sltool.errors import StudyFileError
from sltool.models.base import ACTIVATIONS, Activation, Layers, Model
from sltool.registry import models
from sltool.study import Section


@models.register("mlp")
class MLP(Model):
    """Dense layers with an activation each, then one dense layer to the prediction."""

    class Settings(Section):
        widths: tuple[Annotated[int, Field(gt=0)], ...] = Field(
            default=(16, 64, 64), min_length=1, description="Units of each hidden layer."
        )
        activation: Activation = Field(
            default="leaky-relu", description="relu, leaky-relu (the paper's), sigmoid or tanh."
        )

    settings: Settings

    def layers(self, shape: tuple[int, ...], outputs: int, cut: int) -> Layers:
        if len(shape) != 1:
            raise StudyFileError(f"mlp takes table rows, not samples of shape {shape}")
        hidden: list[nn.Module] = [
            # (N, before) -> (N, after)
            nn.Sequential(nn.Linear(before, after), ACTIVATIONS[self.settings.activation]())
            for before, after in pairwise([shape[0], *self.settings.widths])
        ]
        return Layers(hidden, nn.Linear(self.settings.widths[-1], outputs))
