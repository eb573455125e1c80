"""Checkpoints: the state from which a run resumes as if it had not been interrupted."""

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
        epoch, step: completed epochs, and completed steps of the current epoch.
        loss: sum of the training loss over the samples of the current epoch so far.
        network, optimizer: their state dicts.
        taken: (n, ID_BYTES) uint8, the pseudonyms of the samples that had been drawn once more than
            the others of their site when the current epoch began. Positions would not outlast a
            change of the samples.
        shards: digest -> the first epoch (from 1) that includes the shard.
        train, validation: digests of the samples (`Basis`) that the figures were measured on.
        since: epochs that were completed when those samples last changed.
        best: state dict of the server network with the lowest validation loss so far.
        best_epoch, best_loss, best_figures: of that network (`Best`).
        history: one row per epoch, as in `history.csv`.

    There is no random state: every step seeds torch (`Trainer`).
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
        """Write the checkpoint atomically: the previous one stays until the new one is complete."""
        with publish(path) as part:
            state = {name: getattr(self, name) for name in self.__dataclass_fields__}
            try:
                torch.save(state, part)
            except RuntimeError as error:
                # torch replaces the system's error, such as a full disk, with its own.
                raise OSError(f"torch could not write it: {error}") from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; only tensors and plain values are unpickled.

    Raises:
        StorageError: the file could not be read.
        BadDataError: the file is damaged, or was written by another version of sltool.
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
            "the checkpoint is damaged, or was written by another version of sltool",
            where=path,
            hint="train under another --run name, or again with --force",
        ) from error
