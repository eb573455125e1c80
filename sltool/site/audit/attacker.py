"""The attackers' interface: what they know, what they return, and their budget."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sltool.site.audit.measures import Figure
from sltool.study.schema import Levels

Array = NDArray[Any]

# Of feature maps and means side by side: 1 GiB.
MOST_VALUES = 2**28


@dataclass(frozen=True)
class Budget:
    """The limits on the effort of an audit's attackers.

    Attributes:
        samples: most samples of the site, known and attacked ones together.
        held_out: most samples that are attacked.
        steps: training steps of a convolutional decoder; a dense decoder gets half.
        descent: gradient steps for each optimised image.
        optimised: number of images that are optimised.
        rows: most patches that a ridge regression is fitted to.
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
BUDGETS: dict[str, Budget] = {budget.name: budget for budget in (QUICK, THOROUGH)}


@dataclass(frozen=True)
class Pairs:
    """Samples and their feature maps.

    Attributes:
        inputs: (n, C, H, W) from 0 to 1, or table rows (n, columns) as the network sees them.
        maps: (n, *feature_shape) as shipped, the first view of each sample.
        labels: (n,).
        groups: (n,) index of each sample's patient.
        means: (n, *feature_shape), the mean of all views of each sample that were shipped.
        views: (n,) how many those are.
    """

    inputs: Array
    maps: Array
    labels: Array
    groups: Array
    means: Array
    views: Array

    def __len__(self) -> int:
        return len(self.maps)

    def part(self, rows: Array) -> Pairs:
        """The pairs of these rows."""
        columns = (self.inputs, self.maps, self.labels, self.groups, self.means, self.views)
        return Pairs(*(column[rows] for column in columns))

    def with_means(self) -> Pairs:
        """The pairs of several views, as many as fit into `MOST_VALUES`.

        The channels of each map are followed by those of the mean.
        """
        most = MOST_VALUES // (2 * int(np.prod(self.maps.shape[1:])))
        several = self.part(np.flatnonzero(self.views > 1)[: max(1, most)])
        return replace(several, maps=beside(several.maps, several.means))


@dataclass(frozen=True)
class Scene:
    """What an attacker has: shards to invert, and pairs of other patients to learn from.

    Attributes:
        fit: pairs to learn from.
        check: pairs of other patients again, for model selection.
        maps: (n, *feature_shape), the feature maps under attack: the first view of each sample,
            those of several views first.
        means, views: (n, ...), as in `Pairs`, of the samples under attack.
        labels: (n,), shipped together with `maps`.
        layer: the privacy layer, in inference mode.
        standardise: inputs as in `Pairs` -> inputs of the layer; differentiable.
        clip_and_add_noise: output of the layer -> feature maps as shipped, but without noise;
            differentiable.
        noise: the standard deviation of the noise on the maps.
        levels: of quantised maps, which are given as values here; None: they are not quantised.
        another_view: makes one of each input, such as a second image of the same patient.
        columns: names of a table's columns; () for images.
        classes: number of classes; 0 for regression.
        public: pairs from public images, if there are any; their groups have no meaning.
    """

    fit: Pairs
    check: Pairs
    maps: Array
    means: Array
    views: Array
    labels: Array
    layer: nn.Module
    standardise: Callable[[torch.Tensor], torch.Tensor]
    clip_and_add_noise: Callable[[torch.Tensor], torch.Tensor]
    noise: float
    levels: Levels | None
    another_view: Callable[[Array], Array]
    columns: tuple[str, ...]
    classes: int
    public: Pairs | None
    budget: Budget
    seed: int
    device: torch.device

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a sample."""
        return tuple(self.fit.inputs.shape[1:])

    @property
    def is_image(self) -> bool:
        return len(self.shape) == 3

    @property
    def mean(self) -> Array:
        """The mean (1, *shape) of the samples that the attacker knows: a guess without a shard."""
        return np.asarray(self.fit.inputs.mean(axis=0, keepdims=True), np.float32)

    def with_means(self) -> Scene:
        """The attack on the samples of several views, by pairs and maps as `Pairs.with_means`."""
        several = int((self.views > 1).sum())
        return replace(
            self,
            fit=self.fit.with_means(),
            check=self.check.with_means(),
            maps=beside(self.maps[:several], self.means[:several]),
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Inputs as in `Pairs` -> feature maps without noise; differentiable."""
        return self.clip_and_add_noise(self.layer(self.standardise(inputs)))

    def encode(self, inputs: Array) -> Array:
        """`forward` for arrays, in batches."""
        return self._in_batches(self.forward, inputs)

    def unquantised(self, inputs: Array) -> Array:
        """What the layer gives for these inputs, without clipping, noise and quantisation."""
        return self._in_batches(lambda x: self.layer(self.standardise(x)), inputs)

    @torch.inference_mode()
    def _in_batches(
        self, compute: Callable[[torch.Tensor], torch.Tensor], inputs: Array, batch: int = 256
    ) -> Array:
        parts = [
            compute(torch.from_numpy(inputs[start : start + batch]).to(self.device)).cpu()
            for start in range(0, len(inputs), batch)
        ]
        return np.asarray(torch.cat(parts).numpy())


@dataclass(frozen=True)
class Attempt:
    """An attacker's reconstruction after a certain effort.

    Attributes:
        effort: in the attacker's own unit (`Attacker.unit`).
        rebuilt: (m, *shape), the samples of the first m feature maps under attack.
    """

    effort: int
    rebuilt: Array


class Attacker:
    """Base of attackers, which are registered by `@attackers.register("name")`.

    Reports show the first line of the subclass's docstring.

    Attributes:
        unit: what the effort is counted in.
        knowledge: what the attacker knows besides the shards and the privacy layer; {known} is
            replaced by the number of known pairs.
    """

    unit: str = "pairs"
    knowledge: str = "{known} samples of other patients"

    def skip_reason(self, scene: Scene) -> str:
        """Why the attacker does not apply to this scene; '' if it does."""
        return ""


class Reconstructor(Attacker, ABC):
    """Reconstructs samples from feature maps."""

    @abstractmethod
    def rebuild(self, scene: Scene) -> Iterator[Attempt]:
        """Attempts at increasing effort, doubled from each to the next; the last one counts."""


@dataclass(frozen=True)
class Inference:
    """Something that an attacker infers without reconstructing a sample.

    Attributes:
        name: 'linkage_top1', 'label' ...
        figure: the success rate or score.
        chance: the same for a guess without a shard.
        description: what was measured.
    """

    name: str
    figure: Figure
    chance: float
    description: str


class Inferrer(Attacker, ABC):
    """Infers facts about patients: identity, membership, attributes."""

    @abstractmethod
    def infer(self, scene: Scene, truth: Pairs) -> list[Inference]:
        """Run the attack and score it.

        Args:
            truth: the samples under attack, for queries and scoring only.
        """


def beside(maps: Array, means: Array) -> Array:
    """Feature maps (n, C, ...) twice -> (n, 2 C, ...)."""
    return np.concatenate([maps, means], axis=1)


def doublings(whole: int, times: int = 3) -> list[int]:
    """Efforts up to `whole`, doubled from each to the next: 800 -> [100, 200, 400, 800]."""
    return sorted({max(1, whole >> shift) for shift in range(times + 1)})
