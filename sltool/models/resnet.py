"""A small residual network behind one convolution (He et al., "Deep Residual Learning", 2016)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from pydantic import Field
from torch import nn

from sltool.models import base
from sltool.registry import models
from sltool.study.schema import Section

LARGEST_SIDE = 32  # of the residual blocks' inputs; strided convolutions reduce larger ones
SMALLEST_SIDE = 1  # of what a stage of blocks halves
SMALLEST_CODE = 4  # to which a code is halved


@models.register("resnet")
class ResNet(base.Model):
    """A convolution with 2x2 pooling, then residual blocks: fast, and good on small data sets."""

    class Settings(Section):
        channels: base.Count = Field(default=16, description="Channels of the first hidden layer.")
        widths: tuple[base.Count, ...] = Field(
            default=(64, 128, 256), min_length=1, description="Channels of each stage of blocks."
        )
        blocks: base.Count = Field(default=2, description="Residual blocks in a stage.")
        activation: base.Activation = Field(
            default="relu", description="Activation of all hidden layers."
        )
        pool: base.Pool = Field(default="max", description="max or average.")
        server: base.NormedServerSettings = Field(
            default=base.NormedServerSettings(),
            description="Settings of the server; may change at any time.",
        )

    settings: Settings

    def layers(self, shape: tuple[int, ...], outputs: int, cut: int) -> base.Layers:
        base.check_image("resnet", shape, len(self.settings.widths))
        return self._blocks(shape, outputs, cut, self.settings.pool, SMALLEST_SIDE)

    def layers_after_code(self, shape: tuple[int, ...], outputs: int, cut: int) -> base.Layers:
        """Without the first pooling; blocks halve the code down to 4x4."""
        base.check_image("resnet", shape, 0)
        return self._blocks(shape, outputs, cut, None, 2 * SMALLEST_CODE)

    def _blocks(
        self,
        shape: tuple[int, ...],
        outputs: int,
        cut: int,
        pool: base.Pool | None,
        smallest: int,
    ) -> base.Layers:
        """A convolution and the blocks, which halve images of at least `smallest` pixels a side."""
        options = self.settings
        first = partial(base.convolution, pool=pool)
        plan: list[tuple[Callable[..., nn.Module], int, int]] = [(first, options.channels, 1)]
        side = max(shape[1:]) // (2 if pool else 1)
        while side > LARGEST_SIDE:
            plan.append((partial(base.convolution, pool=None), (options.widths[0] + 1) // 2, 2))
            side = (side + 1) // 2
        for stage, width in enumerate(options.widths):
            halved = stage > 0 and side >= smallest
            strides = [2 if halved else 1, *[1] * (options.blocks - 1)]
            plan += [(_Block, width, stride) for stride in strides]
            side = (side + 1) // 2 if halved else side
        hidden, channels = nn.ModuleList(), shape[0]
        for index, (kind, width, stride) in enumerate(plan):
            activation = base.activation_at(index, cut, options.activation, options.server)
            norm = options.server.batch_norm and index >= cut
            hidden.append(kind(channels, width, activation, norm=norm, stride=stride))
            channels = width
        hidden.apply(base.init_he)
        return base.Layers([*hidden], base.pooled_head(channels, outputs, options.server.dropout))


class _Block(nn.Module):
    """Two convolutions beside a shortcut: (N, before, H, W) -> (N, after, H, W) / stride."""

    def __init__(
        self, before: int, after: int, activation: type[nn.Module], norm: bool, stride: int
    ) -> None:
        super().__init__()
        self.first = base.convolution(before, after, activation, None, norm, stride)
        self.second = base.convolution(after, after, nn.Identity, None, norm)
        for part in self.second:
            if isinstance(part, nn.BatchNorm2d):
                # At the start a block equals its shortcut (Goyal et al., 2017).
                nn.init.zeros_(part.weight)
        project = base.convolution(before, after, nn.Identity, None, norm, stride, size=1)
        self.shortcut = nn.Identity() if before == after and stride == 1 else project
        self.activation = activation()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.activation(self.shortcut(x) + self.second(self.first(x)))
        return out
