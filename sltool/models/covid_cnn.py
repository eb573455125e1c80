"""The paper's COVID-CT network: 5 convolutions, 1 at the site and 4 at the server (section 9)."""

from __future__ import annotations

from pydantic import Field
from torch import nn

from sltool.models.base import (
    Activation,
    Count,
    Layers,
    Model,
    NormedServerSettings,
    Pool,
    activation_at,
    check_image,
    convolution,
)
from sltool.registry import models
from sltool.study.schema import Section


@models.register("covid-cnn")
class CovidCNN(Model):
    """Convolutions 3x3, each with activation and 2x2 pooling, then one dense layer."""

    class Settings(Section):
        filters: tuple[Count, ...] = Field(
            default=(1, 32, 64, 128, 256),
            min_length=1,
            description="Channels of each hidden layer; the last one at the site makes the feature "
            "maps.",
        )
        activation: Activation = Field(
            default="leaky-relu",
            description="relu, leaky-relu (trains best), sigmoid (the paper's) or tanh.",
        )
        pool: Pool = Field(
            default="max",
            description="max or average: the poolings of the paper's equation 2.",
        )
        server: NormedServerSettings = Field(
            default=NormedServerSettings(),
            description="Settings of the server network alone; may change at any time.",
        )

    settings: Settings

    def layers(self, shape: tuple[int, ...], outputs: int, cut: int) -> Layers:
        options = self.settings
        depth = len(options.filters)
        check_image("covid-cnn", shape, depth)
        channels, height, width = shape
        hidden: list[nn.Module] = []
        for index, filters in enumerate(options.filters):
            norm = options.server.batch_norm and index >= cut
            activation = activation_at(index, cut, options.activation, options.server)
            hidden.append(convolution(channels, filters, activation, options.pool, norm))
            channels = filters
        head = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(options.server.dropout),
            nn.Linear(channels * (height >> depth) * (width >> depth), outputs),
        )
        return Layers(hidden, head)
