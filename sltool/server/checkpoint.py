"""Checkpoints: all that a run needs to go on as if it had never stopped."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sltool.errors import BadDataError
from sltool.files import publish


@dataclass
class Checkpoint:
    """The state of a run after an epoch.

    Attributes:
        epoch: epochs done.
        network, optimizer: their state dicts.
        random: torch's generator state.
        best: state dict of the server network with the lowest validation loss so far.
        best_epoch, best_loss: of that network.
        history: one row an epoch, as in `history.csv`.
    """

    epoch: int
    network: dict[str, Any]
    optimizer: dict[str, Any]
    random: torch.Tensor
    best: dict[str, Any]
    best_epoch: int
    best_loss: float
    history: list[dict[str, float]]

    def save(self, path: Path) -> None:
        """Publish the checkpoint."""
        with publish(path) as part:
            torch.save({name: getattr(self, name) for name in self.__dataclass_fields__}, part)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; only tensors and plain values are unpickled.

    Raises:
        BadDataError: the file is damaged.
    """
    try:
        return Checkpoint(**torch.load(path, map_location="cpu", weights_only=True))
    except (RuntimeError, pickle.UnpicklingError, TypeError, EOFError) as error:
        raise BadDataError(
            "the checkpoint is damaged",
            where=path,
            hint="train under another --run name, or again with --force",
        ) from error
