"""The paper's COVID-CT network: 5 convolutions, 1 at the site and 4 at the server (section 9)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from sltool.errors import StudyFileError
from sltool.models.base import ACTIVATIONS, Layers, Model
from sltool.registry import models
from sltool.study import Fraction, Section


@models.register("covid-cnn")
class CovidCNN(Model):
    """Convolutions 3x3, each with activation and 2x2 pooling, then one dense layer."""

    class Settings(Section):
        class Server(Section):
            batch_norm: bool = Field(
                default=True, description="Batch normalisation after each convolution there."
            )
            dropout: Fraction = Field(default=0.0, description="Before the dense layer.")

        filters: tuple[Annotated[int, Field(gt=0)], ...] = Field(
            default=(1, 32, 64, 128, 256),
            min_length=1,
            description="Channels of each hidden layer; the last at the site is what travels.",
        )
        activation: Literal["relu", "leaky-relu", "sigmoid", "tanh"] = Field(
            default="leaky-relu", description="relu, leaky-relu, sigmoid or tanh."
        )
        pool: Literal["max", "average"] = Field(default="max", description="max or average.")
        server: Server = Field(
            default=Server(), description="Of the server network alone; free to change."
        )

    settings: Settings

    def layers(self, shape: tuple[int, ...], outputs: int, cut: int) -> Layers:
        if len(shape) != 3:
            raise StudyFileError(f"covid-cnn takes images, not samples of shape {shape}")
        channels, height, width = shape
        depth = len(self.settings.filters)
        if min(height, width) < 2**depth:
            raise StudyFileError(f"{depth} poolings need images of {2**depth} pixels or more")
        hidden: list[nn.Module] = []
        for number, filters in enumerate(self.settings.filters):
            norm = self.settings.server.batch_norm and number >= cut
            hidden.append(self._hidden(channels, filters, norm))
            channels = filters
        head = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(self.settings.server.dropout),
            nn.Linear(channels * (height >> depth) * (width >> depth), outputs),
        )
        return Layers(hidden, head)

    def _hidden(self, channels: int, filters: int, norm: bool) -> nn.Module:
        # (N, channels, H, W) -> (N, filters, H/2, W/2)
        pool = nn.MaxPool2d(2) if self.settings.pool == "max" else nn.AvgPool2d(2)
        return nn.Sequential(
            nn.Conv2d(channels, filters, 3, padding=1),
            *([nn.BatchNorm2d(filters)] if norm else []),
            ACTIVATIONS[self.settings.activation](),
            pool,
        )
