"""Detects divergence: a loss or weights that are not finite, from which a run cannot recover."""

from __future__ import annotations

import torch
from torch import nn

from sltool.errors import DivergedError
from sltool.server.training.distributed import Ranks
from sltool.study.schema import Training


class EpochLoss:
    """Accumulates the training loss of the current epoch, and checks that it is finite.

    `add` does not wait for the device.

    Attributes:
        sum: scalar on the device, the sum over this rank's samples so far.
    """

    def __init__(self, device: torch.device, ranks: Ranks) -> None:
        self._device = device
        self._ranks = ranks
        self.reset()

    def reset(self) -> None:
        """Start a new epoch."""
        self.restore(torch.zeros(()), 0)

    def restore(self, total: torch.Tensor, steps: int) -> None:
        """Continue after `steps` steps of an epoch, with the scalar sum `total` over all ranks."""
        local = total if self._ranks.is_first else torch.zeros_like(total)
        self.sum = local.to(self._device)
        self._finite_steps = steps
        self._unchecked: list[torch.Tensor] = []

    def add(self, loss: torch.Tensor, count: int) -> None:
        """Add the scalar mean loss of a step over `count` samples."""
        loss = loss.detach()
        self.sum += loss * count
        self._unchecked.append(loss)

    def total(self) -> torch.Tensor:
        """The sum over all ranks, a scalar."""
        return self._ranks.sum(self.sum)

    def first_non_finite(self, steps: int, network: nn.Module | None = None) -> int:
        """The first of `steps` steps (from 1) with a non-finite loss at some rank; 0: none.

        Args:
            network: its weights are checked, too: a finite loss may have a non-finite gradient,
                and leave non-finite weights, which count as the last step's.
        """
        if self._unchecked:
            finite = torch.isfinite(torch.stack(self._unchecked)).tolist()
            self._finite_steps += (*finite, False).index(False)
            self._unchecked.clear()
        count = self._finite_steps
        if count == steps and not (self.sum.isfinite() and (network is None or is_finite(network))):
            count -= 1
        count = self._ranks.min(count)
        return count + 1 if count < steps else 0


def is_finite(network: nn.Module) -> bool:
    """Whether all weights and running statistics are finite."""
    return all(
        bool(torch.isfinite(value).all())
        for value in network.state_dict().values()
        if value.is_floating_point()
    )


def diverged(
    what: str, epoch: int, step: int, settings: Training, precision: str = "fp32"
) -> DivergedError:
    """The error for a run whose `what` is not finite from a step (from 1) of an epoch on.

    Args:
        precision: the run's; one other than fp32 is named in the hint.
    """
    clip = settings.clip_gradient
    remedies = [
        f"a training.learning_rate below {settings.learning_rate:g}",
        f"a training.clip_gradient below {clip:g}" if clip else "training.clip_gradient: 1",
    ]
    if precision != "fp32":
        remedies.append(f"--precision fp32 (now {precision})")
    return DivergedError(
        f"training diverged: the {what} is not a finite number from epoch {epoch}, step {step} on",
        expected="finite losses and weights",
        hint=f"try {', '.join(remedies[:-1])} or {remedies[-1]}",
    )
