"""The paper's cholesterol network: dense layers with leaky ReLU, a number at the end."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

from pydantic import Field
from torch import nn

from sltool.errors import StudyFileError
from sltool.models.base import Activation, Layers, Model, ServerSettings, activation_at
from sltool.registry import models
from sltool.study.schema import Section


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
        server: ServerSettings = Field(
            default=ServerSettings(), description="Of the server network alone; free to change."
        )

    settings: Settings

    def layers(self, shape: tuple[int, ...], outputs: int, cut: int) -> Layers:
        if len(shape) != 1:
            raise StudyFileError(f"mlp takes table rows, not samples of shape {shape}")
        options = self.settings
        hidden: list[nn.Module] = []
        for number, (before, after) in enumerate(pairwise([shape[0], *options.widths])):
            activation = activation_at(number, cut, options.activation, options.server)
            # (N, before) -> (N, after)
            hidden.append(nn.Sequential(nn.Linear(before, after), activation()))
        return Layers(hidden, nn.Linear(options.widths[-1], outputs))
