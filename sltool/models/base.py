"""What a model is: a list of hidden layers and a head, cut in two at any place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sltool.errors import StudyFileError
from sltool.registry import models
from sltool.study import Section, Study, validate


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
        """


def build(study: Study, seed: int) -> Halves:
    """The study's network with weights drawn from `seed`, cut where the study says.

    Raises:
        StudyFileError: the model's settings or the cut are wrong.
        UnknownNameError: there is no such model.
    """
    found = models.get(study.model.name)
    settings = validate(found.Settings, study.model.settings(), where="study.yaml", prefix="model")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = found(settings).layers(
            study.samples.shape, study.samples.labels.outputs, study.model.cut
        )
    return split(layers, study.model.cut)


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


def feature_shape(study: Study, privacy_layer: nn.Module) -> tuple[int, ...]:
    """The shape of one feature map, (C, H, W) or (D,)."""
    with torch.no_grad():
        return tuple(privacy_layer(torch.zeros(1, *study.samples.shape)).shape[1:])


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky-relu": nn.LeakyReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}
