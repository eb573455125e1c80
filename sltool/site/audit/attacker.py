"""What an attacker is: what he has, what he is asked for, and how much effort he may spend."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sltool.site.audit.measures import Figure

Array = NDArray[Any]


@dataclass(frozen=True)
class Budget:
    """How much effort the attackers of an audit may spend.

    Attributes:
        samples: of the site, at most, known ones and attacked ones together.
        held_out: samples that are attacked, at most.
        steps: of training a convolutional decoder; one with a dense stem gets half.
        descent: steps of optimising an image, and `optimised`, how many images.
        rows: patches that a ridge regression sees, at most.
    """

    name: Literal["quick", "thorough"]
    samples: int
    held_out: int
    steps: int
    descent: int
    optimised: int
    rows: int


QUICK = Budget("quick", 2_000, 400, steps=512, descent=160, optimised=32, rows=100_000)
THOROUGH = Budget("thorough", 10_000, 1_000, steps=4_096, descent=1_600, optimised=128, rows=10**6)
BUDGETS: dict[str, Budget] = {one.name: one for one in (QUICK, THOROUGH)}


@dataclass(frozen=True)
class Pairs:
    """Samples and their feature maps.

    Attributes:
        inputs: (n, C, H, W) from 0 to 1, or table rows (n, columns) as the network sees them.
        maps: (n, *feature_shape) as they were shipped.
        labels: (n,).
        groups: (n,) numbers of patients.
    """

    inputs: Array
    maps: Array
    labels: Array
    groups: Array

    def __len__(self) -> int:
        return len(self.maps)

    def part(self, rows: Array) -> Pairs:
        """Those rows."""
        columns = (self.inputs, self.maps, self.labels, self.groups)
        return Pairs(*(column[rows] for column in columns))


@dataclass(frozen=True)
class Scene:
    """What an attacker has: shards to invert, and pairs of other patients to learn from.

    Attributes:
        fit: pairs to learn from; `check`: of yet other patients, to choose settings by.
        maps: (n, *feature_shape), the feature maps under attack, and `labels` (n,), which travel
            with them.
        layer: the privacy layer, in inference mode.
        standardise: inputs as in `Pairs` -> what the layer sees; differentiable.
        protect: what follows the layer, without the noise; differentiable.
        noise: the standard deviation of the noise on the maps.
        views: makes another view of each of some inputs, as the same patient gives another day.
        columns: names of a table's columns; () for images.
        public: pairs from public images, if there are any; their groups have no meaning.
    """

    fit: Pairs
    check: Pairs
    maps: Array
    labels: Array
    layer: nn.Module
    standardise: Callable[[torch.Tensor], torch.Tensor]
    clip_and_add_noise: Callable[[torch.Tensor], torch.Tensor]
    noise: float
    views: Callable[[Array], Array]
    columns: tuple[str, ...]
    classes: int
    public: Pairs | None
    budget: Budget
    seed: int
    device: torch.device

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample."""
        return tuple(self.fit.inputs.shape[1:])

    @property
    def is_image(self) -> bool:
        return len(self.shape) == 3

    @property
    def mean(self) -> Array:
        """The mean sample (1, *shape) of what the attacker knows: a guess without a shard."""
        return np.asarray(self.fit.inputs.mean(axis=0, keepdims=True), np.float32)

    def through(self, inputs: torch.Tensor) -> torch.Tensor:
        """Inputs as in `Pairs` -> feature maps without noise; differentiable."""
        return self.clip_and_add_noise(self.layer(self.standardise(inputs)))

    @torch.inference_mode()
    def encode(self, inputs: Array, batch: int = 256) -> Array:
        """As `through`, for arrays."""
        parts = [
            self.through(torch.from_numpy(inputs[start : start + batch]).to(self.device)).cpu()
            for start in range(0, len(inputs), batch)
        ]
        return np.asarray(torch.cat(parts).numpy())


@dataclass(frozen=True)
class Attempt:
    """What an attacker has rebuilt at some effort.

    Attributes:
        effort: in the attacker's own unit (`Reconstructor.unit`).
        rebuilt: (m, *shape), of the first m feature maps under attack.
    """

    effort: int
    rebuilt: Array


class Attacker:
    """Registered by `@attackers.register("name")`; its docstring's first line says what it does.

    Attributes:
        unit: what its effort is counted in.
        knowledge: what it knows beside the shards and the privacy layer; {known} is how many pairs.
    """

    unit: str = "pairs"
    knowledge: str = "{known} samples of other patients"

    def excuse(self, scene: Scene) -> str:
        """Why it has nothing to do here, or ''."""
        return ""


class Reconstructor(Attacker, ABC):
    """Rebuilds samples from feature maps."""

    @abstractmethod
    def rebuild(self, scene: Scene) -> Iterator[Attempt]:
        """Attempts at growing effort, each twice the one before; the last one counts."""


@dataclass(frozen=True)
class Inference:
    """Something that an attacker finds out without a picture.

    Attributes:
        name: 'linkage_top1', 'label' ...
        figure: how often, or how well.
        chance: the same for one who guesses without a shard.
        told: a sentence that says what was measured.
    """

    name: str
    figure: Figure
    chance: float
    told: str


class Inferrer(Attacker, ABC):
    """Finds out something about patients: who, whether, which attribute."""

    @abstractmethod
    def infer(self, scene: Scene, truth: Pairs) -> list[Inference]:
        """Args:
        truth: the samples under attack; for queries and for scoring alone.
        """


def doublings(whole: int, times: int = 3) -> list[int]:
    """Efforts up to the whole, each twice the one before: 800 -> [100, 200, 400, 800]."""
    return sorted({max(1, whole >> shift) for shift in range(times + 1)})
