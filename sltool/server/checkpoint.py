"""Checkpoints: all that a run needs to go on as if it had never stopped."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sltool.errors import BadDataError, StorageError
from sltool.files import publish


@dataclass
class Checkpoint:
    """The state of a run after a step.

    Attributes:
        epoch, step: epochs done, and steps done of the epoch under way.
        loss: sum of the training loss over the samples of that epoch so far.
        network, optimizer: their state dicts.
        taken: (n, ID_BYTES) uint8, the pseudonyms of the samples that were, at the start of that
            epoch, one turn ahead of the others of their site. Not positions: samples come and go.
        shards: digest -> the first epoch (from 1) of which it was a part.
        train, validation: digests of the samples (`Basis`) that the figures rest on.
        since: epochs that were done when those samples last changed.
        best: state dict of the server network with the lowest validation loss so far.
        best_epoch, best_loss, best_figures: of that network (`Best`).
        history: one row an epoch, as in `history.csv`.

    There is no random state: every step seeds torch anew (`Trainer`).
    """

    epoch: int
    step: int
    loss: torch.Tensor
    network: dict[str, Any]
    optimizer: dict[str, Any]
    taken: torch.Tensor
    shards: dict[str, int]
    train: str
    validation: str
    since: int
    best: dict[str, Any]
    best_epoch: int
    best_loss: float
    best_figures: dict[str, float]
    history: list[dict[str, Any]]

    def save(self, path: Path) -> None:
        """Publish the checkpoint; until it is whole, the one before stays."""
        with publish(path) as part:
            state = {name: getattr(self, name) for name in self.__dataclass_fields__}
            try:
                torch.save(state, part)
            except RuntimeError as error:
                # torch hides the system's error, such as a full disk, behind its own.
                raise OSError(f"torch could not write it: {error}") from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; only tensors and plain values are unpickled.

    Raises:
        BadDataError: the file is damaged, or of another version of sltool.
    """
    try:
        return Checkpoint(**torch.load(path, map_location="cpu", weights_only=True))
    except OSError as error:
        raise StorageError.of(error, path, "read") from error
    except (
        RuntimeError,
        pickle.UnpicklingError,
        TypeError,
        EOFError,
        LookupError,
        ValueError,
    ) as error:
        raise BadDataError(
            "the checkpoint is damaged, or of another version of sltool",
            where=path,
            hint="train under another --run name, or again with --force",
        ) from error
