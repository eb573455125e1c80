"""The paper's MURA network: a convolution at the site, VGG19's 16 at the server (section 9).

VGG19 is configuration E of Simonyan and Zisserman, "Very Deep Convolutional Networks for
Large-Scale Image Recognition", 2015.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from pydantic import Field
from torch import nn

from sltool.errors import StudyFileError
from sltool.models.base import (
    Activation,
    Layers,
    Model,
    Pool,
    ServerSettings,
    activation_at,
    check_image,
    convolution,
    init_he,
    pooled_head,
)
from sltool.models.weights import State, read_state
from sltool.registry import models
from sltool.study.schema import Fraction, Positive, Section

# Filters of each block of convolutions; pooling follows each block.
BLOCKS = ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4)


@models.register("vgg19")
class VGG19(Model):
    """A convolution with 2x2 pooling, then the 16 convolutions of VGG19 and a dense layer.

    Hidden layer 1 is the paper's layer at the site; 2 to 17 are VGG19's. Any cut is possible.
    """

    class Settings(Section):
        class Server(ServerSettings):
            batch_norm: bool | None = Field(
                default=None,
                description="Batch normalisation after each convolution at the server; without it "
                "VGG19 hardly trains from random weights. null: yes, unless `weights` are given.",
            )
            dropout: Fraction = Field(default=0.5, description="Dropout before the dense layer.")
            weights: str | None = Field(
                default=None,
                description="A file with VGG19's weights in torchvision's layout (.pth or "
                ".safetensors), as initial weights of the convolutions at the server.",
            )

        channels: int = Field(
            default=1, gt=0, description="Channels of the first hidden layer: of the feature maps."
        )
        width: Positive = Field(
            default=1.0,
            description="Factor on the filters of VGG19's convolutions (64 to 512). Less than 1 "
            "makes a smaller, faster network; pretrained weights need 1.",
        )
        activation: Activation = Field(
            default="relu", description="relu (VGG19's), leaky-relu, sigmoid or tanh."
        )
        pool: Pool = Field(default="max", description="max (VGG19's) or average.")
        server: Server = Field(
            default=Server(),
            description="Settings of the server network alone; may change at any time.",
        )

    settings: Settings

    def layers_after_code(self, shape: tuple[int, ...], outputs: int, cut: int) -> Layers:
        raise StudyFileError(
            "vgg19 cannot follow a code, which is too small for its poolings",
            expected="model.name: resnet, covid-cnn or mlp",
        )

    def layers(self, shape: tuple[int, ...], outputs: int, cut: int) -> Layers:
        options = self.settings
        check_image("vgg19", shape, 1 + len(BLOCKS))
        filters = [(options.channels, True), *self._filters()]
        norm = options.server.batch_norm
        norm = options.server.weights is None if norm is None else norm
        hidden: list[nn.Module] = []
        channels = shape[0]
        for index, (after, pooled) in enumerate(filters):
            pool = options.pool if pooled else None
            activation = activation_at(index, cut, options.activation, options.server)
            layer = convolution(channels, after, activation, pool, norm and index >= cut)
            if activation in (nn.ReLU, nn.LeakyReLU):
                layer.apply(init_he)
            hidden.append(layer)
            channels = after
        return Layers(hidden, pooled_head(channels, outputs, options.server.dropout))

    def _filters(self) -> Iterator[tuple[int, bool]]:
        """The filters of each of VGG19's convolutions, and whether pooling follows."""
        for block in BLOCKS:
            for position, filters in enumerate(block, start=1):
                yield max(1, round(filters * self.settings.width)), position == len(block)

    def load_pretrained(self, layers: Layers, cut: int, folder: Path) -> None:
        """As `Model.load_pretrained`; VGG19's three input channels are adapted to `channels`.

        Raises:
            StorageError: the file cannot be read.
            BadDataError: it is no file of tensors.
            StudyFileError: its tensors are not those of this VGG19.
        """
        if self.settings.server.weights is None:
            return
        path = folder / Path(self.settings.server.weights).expanduser()
        state = read_state(path)
        offset = 0
        for index, layer in enumerate(layers.hidden[1:], start=1):
            assert isinstance(layer, nn.Sequential)
            parts = [part for part in layer if isinstance(part, nn.Conv2d | nn.BatchNorm2d)]
            for position, part in enumerate(parts):
                prefix = f"features.{offset + position}."
                adapt_input = index == 1 and position == 0
                tensors = _part_state(state, prefix, adapt_input, part, path)
                if index >= cut:
                    part.load_state_dict(tensors)
            # torchvision counts the activation and the pooling too.
            offset += len(layer)


def _part_state(state: State, prefix: str, adapt_input: bool, part: nn.Module, path: Path) -> State:
    """The tensors of a convolution or normalisation, checked against `part`.

    Args:
        adapt_input: convert kernels for three input channels to the channels of `part`.
    """
    tensors = {}
    for name, target in part.state_dict().items():
        key = prefix + name
        found = state.get(key)
        if found is None and name == "num_batches_tracked":
            found = torch.zeros_like(target)
        if found is None:
            raise _wrong_weights(f"the weights have no '{key}'", path, state)
        if adapt_input and name == "weight" and found.dim() == 4 and found.shape[1] == 3:
            # Three equal channels of a grey picture are the same as the sum of the three kernels.
            kernel = found if target.shape[1] == 3 else found.sum(1, keepdim=True)
            found = kernel.expand(-1, target.shape[1], -1, -1) * (kernel.shape[1] / target.shape[1])
        if found.shape != target.shape:
            shapes = f"{tuple(found.shape)}, not {tuple(target.shape)}"
            raise _wrong_weights(f"'{key}' has the shape {shapes}", path, state)
        tensors[name] = found
    return tensors


def _wrong_weights(what: str, path: Path, state: State) -> StudyFileError:
    normed = "features.1.running_mean" in state
    has = "with" if normed else "without"
    return StudyFileError(
        what,
        where=path,
        expected="VGG19 in torchvision's layout, and model.width 1.0",
        hint=f"the file looks like a network {has} batch normalisation: set "
        f"model.server.batch_norm to {str(normed).lower()} in study.yaml if that is the cause"
        if "features.0.weight" in state
        else f"its first names are {', '.join(list(state)[:3]) or 'none'}",
    )
