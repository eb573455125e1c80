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
        filters = self.settings.filters
        check_image("covid-cnn", shape, len(filters))
        return self._convolutions(shape, filters, len(filters), outputs, cut)

    def layers_after_code(self, shape: tuple[int, ...], outputs: int, cut: int) -> Layers:
        """The convolutions behind the first, with pooling down to 2x2."""
        check_image("covid-cnn", shape, 0)
        poolings = max(0, min(shape[1:]).bit_length() - 2)
        return self._convolutions(shape, self.settings.filters[1:], poolings, outputs, cut)

    def _convolutions(
        self,
        shape: tuple[int, ...],
        filters: tuple[int, ...],
        poolings: int,
        outputs: int,
        cut: int,
    ) -> Layers:
        """Convolutions, of which the first `poolings` halve the image, and a dense layer."""
        options = self.settings
        channels, height, width = shape
        hidden: list[nn.Module] = []
        for index, after in enumerate(filters):
            norm = options.server.batch_norm and index >= cut
            activation = activation_at(index, cut, options.activation, options.server)
            pool = options.pool if index < poolings else None
            hidden.append(convolution(channels, after, activation, pool, norm))
            channels = after
        halvings = min(poolings, len(filters))
        head = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(options.server.dropout),
            nn.Linear(channels * (height >> halvings) * (width >> halvings), outputs),
        )
        return Layers(hidden, head)
