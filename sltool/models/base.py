"""The interface of a model: hidden layers and a head, which can be cut after any layer."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn

from sltool.errors import BadDataError, StorageError, StudyFileError, StudyMismatchError
from sltool.models.draw import draw
from sltool.models.learned_layer import code_shape, learned_layer
from sltool.registry import models
from sltool.study.schema import Code, Fraction, Section, Study
from sltool.study.study_file import validate

# 32-bit words in the state of an MT19937.
MT_WORDS = 624


@dataclass(frozen=True)
class Layers:
    """A network before the cut.

    Attributes:
        hidden: the hidden layers; the network can be cut before or after each of them.
        head: from the last hidden layer's output to (N, outputs).
    """

    hidden: list[nn.Module]
    head: nn.Module


@dataclass(frozen=True)
class Halves:
    """A network after the cut: `server_network(privacy_layer(x))` is the whole network."""

    privacy_layer: nn.Sequential
    server_network: nn.Sequential


class Model(ABC):
    """A network of the study. Subclasses register with `@models.register("name")`.

    `Settings` is the schema of the study file's `model` section beside `name` and `cut`. Its field
    `server`, if it has one, holds the settings of the server network alone, which may change
    without a new encoding.
    """

    class Settings(Section):
        """No settings."""

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    @abstractmethod
    def layers(self, shape: tuple[int, ...], outputs: int, cut: int) -> Layers:
        """The layers for standardised samples (N, *shape), float32, and (N, outputs) predictions.

        For classes the predictions are logits, for regression standardised labels. `cut` is the
        number of hidden layers at the site, which are never trained: batch normalisation and
        dropout belong only into the hidden layers from index `cut` on.

        Every tensor of a layer has to be in its state dict, because layers whose weights are read
        from a file are created without weights.
        """

    def learned_layer(self, shape: tuple[int, ...], code: Code) -> nn.Module:
        """The first hidden layer if `model.code` is set: (N, *shape) -> (N, *code_shape)."""
        return learned_layer(shape, code)

    def layers_after_code(self, shape: tuple[int, ...], outputs: int, cut: int) -> Layers:
        """As `layers`, for codes (N, *shape) instead of samples: an image's is 4x4 or so."""
        return self.layers(shape, outputs, cut)

    def load_pretrained(  # noqa: B027 - most models have none
        self, layers: Layers, cut: int, folder: Path
    ) -> None:
        """Load initial weights from disk into the server's layers, if the settings name any.

        Args:
            layers: what `layers` returned.
            folder: the study's folder; paths in the settings are relative to it.
        """

    def load_privacy_layer(self, layers: Layers, cut: int, folder: Path) -> bool:
        """Load weights from disk into the site's layers, for a new privacy layer, if so set.

        Args:
            layers: what `layers` returned.
            folder: the study's folder; paths in the settings are relative to it.

        Returns:
            Whether weights were loaded; otherwise they are drawn (`sltool.models.draw`).
        """
        return False


def draw_privacy_layer(study: Study, seed: int | None, folder: Path) -> nn.Sequential:
    """A new privacy layer: drawn from `seed`, or pretrained if the model's settings say so.

    Args:
        seed: None: the system's entropy, so that the draw cannot be repeated.
        folder: the study's folder; paths in the model's settings are relative to it.

    Raises:
        StudyFileError: the model's settings or the cut are wrong.
        UnknownNameError: there is no such model.
    """
    with seeded(seed):
        network = _network(study)
        layer = network.halves.privacy_layer
        pretrained = network.learned is None and network.model.load_privacy_layer(
            network.layers, study.model.cut, folder
        )
        if not pretrained:
            draw(layer, study.samples)
    return layer


def build(study: Study, seed: int | None, folder: Path | None = None) -> Halves:
    """The study's network with weights drawn from `seed`, cut at `model.cut`.

    Args:
        seed: None: the system's entropy, so that the draw cannot be repeated.
        folder: the study's folder, for a new run: initial weights that the settings name are read.

    Raises:
        StudyFileError: the model's settings or the cut are wrong.
        UnknownNameError: there is no such model.
    """
    with seeded(seed):
        network = _network(study)
    halves = network.halves
    if folder is not None:
        network.model.load_pretrained(network.layers, max(network.cut, 0), folder)
    return halves


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Draw from `seed` or the system's entropy, and restore the state of torch's generator."""
    with torch.random.fork_rng(devices=[]):
        if seed is None:
            _seed_from_entropy()
        else:
            torch.manual_seed(seed)
        yield


def _seed_from_entropy() -> None:
    """Fill the whole state of torch's CPU generator, the MT19937, from the system's entropy.

    `torch.manual_seed` uses 32 bits of its argument, which can be searched exhaustively.
    """
    torch.manual_seed(1)
    state = torch.get_rng_state()
    words = state.numpy().view(np.uint64)[3 : 3 + MT_WORDS]
    if len(words) != MT_WORDS or words[0] != 1:
        raise RuntimeError(f"torch {torch.__version__} has another layout of its generator's state")
    words[:] = np.frombuffer(secrets.token_bytes(4 * MT_WORDS), np.uint32)
    torch.set_rng_state(state)


def outline(study: Study) -> Halves:
    """The study's network without weights, on torch's meta device: shapes without memory.

    Weights are loaded with `load_state_dict(..., assign=True)`. Raises the errors of `build`.
    """
    with torch.device("meta"):
        return _network(study).halves


@dataclass(frozen=True)
class _Network:
    """A model's layers, behind a learned layer if the study has a code.

    Attributes:
        cut: how many of `layers.hidden` are at the site; -1: not even the learned layer is.
    """

    model: Model
    learned: nn.Module | None
    layers: Layers
    cut: int

    @property
    def halves(self) -> Halves:
        if self.learned is None:
            return cut_network(self.layers, self.cut)
        whole = Layers([self.learned, *self.layers.hidden], self.layers.head)
        return cut_network(whole, self.cut + 1)


def _network(study: Study) -> _Network:
    registered = models.get(study.model.name)
    settings = validate(
        registered.Settings, study.model.settings(), where="study.yaml", prefix="model"
    )
    model: Model = registered(settings)
    shape, outputs = study.samples.shape, study.samples.labels.outputs
    cut, code = study.model.cut, study.model.code
    if code is None:
        return _Network(model, None, model.layers(shape, outputs, cut), cut)
    learned = model.learned_layer(shape, code)
    after = model.layers_after_code(code_shape(shape, code), outputs, max(cut - 1, 0))
    return _Network(model, learned, after, cut - 1)


def cut_network(layers: Layers, cut: int) -> Halves:
    """Put the first `cut` hidden layers at the site and the rest at the server.

    Raises:
        StudyFileError: the network has fewer hidden layers.
    """
    if cut > len(layers.hidden):
        raise StudyFileError(
            f"model.cut is {cut}, but the network has {len(layers.hidden)} hidden layers",
            expected=f"0 to {len(layers.hidden)}",
        )
    return Halves(
        nn.Sequential(*layers.hidden[:cut]), nn.Sequential(*layers.hidden[cut:], layers.head)
    )


def load_weights(part: nn.Module, path: Path, what: str, hint: str) -> None:
    """Replace the tensors of a part of the network by those of a safetensors file.

    Args:
        what: the file's name in messages, such as 'the privacy layer'.
        hint: what the user should do if it is damaged or of another network.

    Raises:
        StorageError: the file cannot be read.
        BadDataError: it is damaged.
        StudyMismatchError: its tensors are those of another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(path)
    except OSError as error:
        raise StorageError.of(error, path, "read") from error
    except (SafetensorError, ValueError) as error:
        raise BadDataError(f"{what} is damaged: {error}", where=path, hint=hint) from error
    try:
        part.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise StudyMismatchError(
            f"{what}: the weights do not fit the study's model", where=path, hint=hint
        ) from error


def feature_shape(study: Study) -> tuple[int, ...]:
    """The shape of a sample's feature map, (C, H, W) or (D,)."""
    # Not `outline`: the first use of the meta device imports sympy and torch._dynamo, which takes
    # longer than drawing the weights of VGG19.
    return output_shape(build(study, seed=0).privacy_layer.eval(), study)


def output_shape(privacy_layer: nn.Module, study: Study) -> tuple[int, ...]:
    """The shape (C, H, W) or (D,) of the feature map that `privacy_layer`, on the CPU, computes."""
    with torch.inference_mode():
        return tuple(privacy_layer(torch.zeros(1, *study.samples.shape)).shape[1:])


Count = Annotated[int, Field(gt=0)]
Activation = Literal["relu", "leaky-relu", "sigmoid", "tanh"]
ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky-relu": nn.LeakyReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}


class ServerSettings(Section):
    """`model.server` of the built-in models: what a run may change without a new encoding."""

    activation: Activation | None = Field(
        default=None, description="Activation of the server's hidden layers. null: as at the site."
    )


class NormedServerSettings(ServerSettings):
    """`model.server` of convolutional networks."""

    batch_norm: bool = Field(
        default=True, description="Batch normalisation after each convolution at the server."
    )
    dropout: Fraction = Field(default=0.0, description="Dropout before the dense layer.")


def activation_at(
    index: int, cut: int, site: Activation, server: ServerSettings
) -> type[nn.Module]:
    """The activation of the hidden layer with this index, counted from 0."""
    return ACTIVATIONS[server.activation if server.activation and index >= cut else site]


Pool = Literal["max", "average"]
POOLS: dict[Pool, type[nn.Module]] = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}


def convolution(
    channels: int,
    filters: int,
    activation: type[nn.Module],
    pool: Pool | None,
    norm: bool,
    stride: int = 1,
    size: int = 3,
) -> nn.Sequential:
    """A convolution and its activation: (N, channels, H, W) -> (N, filters, H, W) / stride.

    Args:
        pool: 2x2 pooling at the end (the paper's equation 2), which halves H and W; None: none.
        norm: batch normalisation before the activation; only for the server's layers.
        size: side of the kernel in pixels.
    """
    return nn.Sequential(
        nn.Conv2d(channels, filters, size, stride, padding=size // 2),
        *([nn.BatchNorm2d(filters)] if norm else []),
        activation(),
        *([POOLS[pool](2)] if pool else []),
    )


def init_he(part: nn.Module) -> None:
    """For `Module.apply`: keeps a signal's scale through many convolutions (He et al. 2015)."""
    if isinstance(part, nn.Conv2d):
        nn.init.kaiming_normal_(part.weight, nonlinearity="relu")


def pooled_head(channels: int, outputs: int, dropout: float) -> nn.Sequential:
    """A head: the mean of each channel, then a dense layer: (N, channels, H, W) -> (N, outputs)."""
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(channels, outputs)
    )


def check_image(model: str, shape: tuple[int, ...], poolings: int) -> None:
    """Raise `StudyFileError` unless `shape` is an image large enough for this many poolings."""
    if len(shape) != 3:
        raise StudyFileError(f"{model} takes images, not samples of shape {shape}")
    if min(shape[1:]) < 2**poolings:
        raise StudyFileError(
            f"{model} halves an image {poolings} times; {shape[1]}x{shape[2]} pixels are too few",
            expected=f"{2**poolings} pixels or more on each side",
        )
