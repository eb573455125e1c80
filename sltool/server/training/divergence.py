"""A run whose loss or weights are no finite numbers any more, from which no step leads back."""

from __future__ import annotations

import torch
from torch import nn

from sltool.errors import DivergedError
from sltool.server.training.distributed import Ranks
from sltool.study.schema import Training


class EpochLoss:
    """The training loss of an epoch under way, and whether it still is a number.

    `add` does not wait for the device.

    Attributes:
        sum: over this rank's samples so far, a scalar on the device.
    """

    def __init__(self, device: torch.device, ranks: Ranks) -> None:
        self._device = device
        self._ranks = ranks
        self.reset()

    def reset(self) -> None:
        """An epoch begins."""
        self.take_up(torch.zeros(()), 0)

    def take_up(self, total: torch.Tensor, steps: int) -> None:
        """Go on after so many steps, with the scalar sum over all ranks."""
        mine = total if self._ranks.is_first else torch.zeros_like(total)
        self.sum = mine.to(self._device)
        self._sound = steps
        self._unseen: list[torch.Tensor] = []

    def add(self, loss: torch.Tensor, count: int) -> None:
        """A step's scalar mean loss over `count` samples."""
        loss = loss.detach()
        self.sum += loss * count
        self._unseen.append(loss)

    def total(self) -> torch.Tensor:
        """The scalar sum over all ranks."""
        return self._ranks.sum(self.sum)

    def broken_from(self, steps: int, network: nn.Module | None = None) -> int:
        """The first of `steps` steps (from 1) that was not sound at some rank; 0: none.

        Args:
            network: looked at, too: a finite loss may have a gradient that is not, and leave
                weights that are not.
        """
        if self._unseen:
            finite = torch.isfinite(torch.stack(self._unseen)).tolist()
            self._sound += (*finite, False).index(False)
            self._unseen.clear()
        sound = self._sound
        if sound == steps and not (self.sum.isfinite() and (network is None or is_finite(network))):
            sound -= 1
        sound = self._ranks.least(sound)
        return sound + 1 if sound < steps else 0


def is_finite(network: nn.Module) -> bool:
    """Whether every weight and running statistic is a finite number."""
    return all(
        bool(torch.isfinite(value).all())
        for value in network.state_dict().values()
        if value.is_floating_point()
    )


def diverged(
    what: str, epoch: int, step: int, settings: Training, precision: str = "fp32"
) -> DivergedError:
    """The error for a run of which `what` is not finite from a step (from 1) of an epoch on.

    Args:
        precision: of a run whose precision can be chosen.
    """
    clip = settings.clip_gradient
    ways = [
        f"a training.learning_rate below {settings.learning_rate:g}",
        f"a training.clip_gradient below {clip:g}" if clip else "training.clip_gradient: 1",
    ]
    if precision != "fp32":
        ways.append(f"--precision fp32 (now {precision})")
    return DivergedError(
        f"training diverged: the {what} is not a finite number from epoch {epoch}, step {step} on",
        expected="finite losses and weights",
        hint=f"try {', '.join(ways[:-1])} or {ways[-1]}",
    )
