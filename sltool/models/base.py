"""What a model is: a list of hidden layers and a head, cut in two at any place."""

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
from sltool.registry import models
from sltool.study.schema import Fraction, Section, Study
from sltool.study.study_file import validate

# Of 32 bits, in the state of an MT19937.
MT_WORDS = 624


@dataclass(frozen=True)
class Layers:
    """A network before the cut.

    Attributes:
        hidden: the hidden layers; each is one place where the network can be cut.
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
    `server`, if it has one, holds what concerns the server network alone and may change without a
    new encoding.
    """

    class Settings(Section):
        """No settings."""

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    @abstractmethod
    def layers(self, shape: tuple[int, ...], outputs: int, cut: int) -> Layers:
        """The layers for standardised samples (N, *shape), float32, and (N, outputs) predictions.

        For classes the predictions are logits, for regression standardised labels. `cut` is only
        for what makes no sense at the site, whose weights are never trained: batch normalisation
        or dropout stand in the hidden layers from number `cut` on.

        Every tensor of a layer has to stand in its state dict: where weights are read from a file,
        the layers are made without any.
        """

    def load_pretrained(  # noqa: B027 - most models have none
        self, layers: Layers, cut: int, folder: Path
    ) -> None:
        """Put starting weights from disk into the server's layers, if the settings name any.

        Args:
            layers: what `layers` returned.
            folder: the study's folder; a relative path in the settings starts there.
        """

    def load_privacy_layer(self, layers: Layers, cut: int, folder: Path) -> bool:
        """Put weights from disk into the site's layers, for a new privacy layer, if so set.

        Args:
            layers: what `layers` returned.
            folder: the study's folder; a relative path in the settings starts there.

        Returns:
            Whether it did; otherwise they are drawn (`sltool.models.draw`).
        """
        return False


def draw_privacy_layer(study: Study, seed: int | None, folder: Path) -> nn.Sequential:
    """A new privacy layer: drawn from `seed`, or of a pretrained network, if the model says so.

    Args:
        seed: None: from the system's entropy, never to be drawn again.
        folder: the study's folder; relative paths in the model's settings start there.

    Raises:
        StudyFileError: the model's settings or the cut are wrong.
        UnknownNameError: there is no such model.
    """
    with _seeded(seed):
        model, layers = _layers(study)
        layer = split(layers, study.model.cut).privacy_layer
        if not model.load_privacy_layer(layers, study.model.cut, folder):
            draw(layer, study.samples)
    return layer


def build(study: Study, seed: int | None, folder: Path | None = None) -> Halves:
    """The study's network with weights drawn from `seed`, cut where the study says.

    Args:
        seed: None: from the system's entropy, never to be drawn again.
        folder: the study's folder, for a new run: starting weights that the settings name are read.

    Raises:
        StudyFileError: the model's settings or the cut are wrong.
        UnknownNameError: there is no such model.
    """
    with _seeded(seed):
        model, layers = _layers(study)
    halves = split(layers, study.model.cut)
    if folder is not None:
        model.load_pretrained(layers, study.model.cut, folder)
    return halves


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """Draw from `seed`, or from the system's entropy, and leave torch's generator as it was."""
    with torch.random.fork_rng(devices=[]):
        if seed is None:
            _seed_from_entropy()
        else:
            torch.manual_seed(seed)
        yield


def _seed_from_entropy() -> None:
    """Fill the whole state of torch's CPU generator, the MT19937, from the system's entropy.

    `torch.manual_seed` uses 32 bits of its argument, few enough to try them all.
    """
    torch.manual_seed(1)
    state = torch.get_rng_state()
    words = state.numpy().view(np.uint64)[3 : 3 + MT_WORDS]
    if len(words) != MT_WORDS or words[0] != 1:
        raise RuntimeError(f"torch {torch.__version__} lays its generator's state out otherwise")
    words[:] = np.frombuffer(secrets.token_bytes(4 * MT_WORDS), np.uint32)
    torch.set_rng_state(state)


def outline(study: Study) -> Halves:
    """The study's network without weights, on torch's meta device: its shapes, at no cost.

    Weights come in with `load_state_dict(..., assign=True)`. Raises as `build` does.
    """
    with torch.device("meta"):
        return split(_layers(study)[1], study.model.cut)


def _layers(study: Study) -> tuple[Model, Layers]:
    found = models.get(study.model.name)
    settings = validate(found.Settings, study.model.settings(), where="study.yaml", prefix="model")
    model: Model = found(settings)
    shape, outputs = study.samples.shape, study.samples.labels.outputs
    return model, model.layers(shape, outputs, study.model.cut)


def split(layers: Layers, cut: int) -> Halves:
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
    """Put the tensors of a safetensors file into a part of the network, in place of its own.

    Args:
        what: what the file is, for messages: 'the privacy layer'.
        hint: what the user should do where it is damaged or of another network.

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
    """The shape of one feature map, (C, H, W) or (D,)."""
    # Not `outline`: the first use of the meta device imports sympy and torch._dynamo, which takes
    # longer than drawing the weights of VGG19.
    return output_shape(build(study, seed=0).privacy_layer.eval(), study)


def output_shape(privacy_layer: nn.Module, study: Study) -> tuple[int, ...]:
    """The shape (C, H, W) or (D,) that `privacy_layer`, on the CPU, makes of one sample."""
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
        default=None, description="Of the hidden layers there. null: as at the site."
    )


class NormedServerSettings(ServerSettings):
    """`model.server` of networks of convolutions."""

    batch_norm: bool = Field(
        default=True, description="Batch normalisation after each convolution there."
    )
    dropout: Fraction = Field(default=0.0, description="Before the dense layer.")


def activation_at(
    layer: int, cut: int, site: Activation, server: ServerSettings
) -> type[nn.Module]:
    """The activation of hidden layer number `layer`, counted from 0."""
    return ACTIVATIONS[server.activation if server.activation and layer >= cut else site]


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
        size: side of the kernel.
    """
    return nn.Sequential(
        nn.Conv2d(channels, filters, size, stride, padding=size // 2),
        *([nn.BatchNorm2d(filters)] if norm else []),
        activation(),
        *([POOLS[pool](2)] if pool else []),
    )


def he(part: nn.Module) -> None:
    """For `Module.apply`: a signal keeps its size through many convolutions (He et al. 2015)."""
    if isinstance(part, nn.Conv2d):
        nn.init.kaiming_normal_(part.weight, nonlinearity="relu")


def averaged(channels: int, outputs: int, dropout: float) -> nn.Sequential:
    """A head: the mean of each channel, then a dense layer: (N, channels, H, W) -> (N, outputs)."""
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(channels, outputs)
    )


def check_image(model: str, shape: tuple[int, ...], poolings: int) -> None:
    """Raise `StudyFileError` unless `shape` is an image that can be halved so often."""
    if len(shape) != 3:
        raise StudyFileError(f"{model} takes images, not samples of shape {shape}")
    if min(shape[1:]) < 2**poolings:
        raise StudyFileError(
            f"{model} halves an image {poolings} times; {shape[1]}x{shape[2]} pixels are too few",
            expected=f"{2**poolings} pixels or more a side",
        )
