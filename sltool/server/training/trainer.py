"""Training the server network on the feature maps of all sites."""

from __future__ import annotations

import math
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sltool.errors import DivergedError
from sltool.models.precision import Precision, channels_last
from sltool.server.checkpoint import Checkpoint
from sltool.server.store import ID_DTYPE, StoredSamples
from sltool.server.training.augment import FeatureAugmenter
from sltool.server.training.data import Basis, Best, TrainingData, copied_state
from sltool.server.training.distributed import Ranks
from sltool.server.training.divergence import EpochLoss, diverged
from sltool.server.training.loader import FeatureLoader
from sltool.server.training.objective import Objective
from sltool.server.training.optimizer import OptimizerStep
from sltool.server.training.sampler import Sampler, even_batches
from sltool.server.training.site_control import SiteControl
from sltool.study.schema import Training

EVALUATION_BATCH = 512
# With several ranks, a stop is agreed on by communication, so only every few steps.
STEPS_BETWEEN_STOP_CHECKS = 8
# Reading the loss waits for the GPU to finish the step.
STEPS_BETWEEN_LOSS_CHECKS = 64


class Trainer:
    """One run: a server network, its optimiser, and the run's progress.

    Every step seeds torch with a function of the run's seed, the epoch, the step and the rank.
    Dropout and augmentation are therefore the same after a resume, without a random state in the
    checkpoint.

    Args:
        network: the server network, on the device to train on.
        seed: for the order of samples, augmentation and dropout.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        settings: Training,
        seed: int,
        precision: Precision,
        control: SiteControl,
        ranks: Ranks,
    ) -> None:
        torch.set_flush_denormal(True)
        self.epoch = 0
        self.best = Best()
        self.history: list[dict[str, Any]] = []
        self.trained_samples = 0
        self._objective = objective
        self._settings = settings
        self._seed = seed
        self._precision = precision
        self._control = control
        self._ranks = ranks
        self._device = precision.device
        self._network = ranks.prepare(channels_last(network), self._device)
        self._model = ranks.wrap(self._network)
        self._optimizer_step = OptimizerStep(self._network, settings)
        self._step = 0
        self._augmenter = FeatureAugmenter(settings.augment, seed)
        self._loss = EpochLoss(self._device, ranks)
        self._basis = Basis()
        self._changed_after = 0
        self._data: TrainingData
        self._sampler: Sampler
        self._taken_pseudonyms: NDArray[np.bytes_] = np.empty(0, ID_DTYPE)
        self._seconds = 0.0

    def set_data(self, data: TrainingData) -> None:
        """Train on these samples from now on; call between two epochs or after `restore`.

        The sampler continues for the samples that the run has used before.

        Args:
            data: validation may be empty; then the last epoch is the best.
        """
        self._data = data
        taken = torch.from_numpy(np.isin(data.train.pseudonyms, self._taken_pseudonyms))
        self._sampler = Sampler(data.train, self._control, self._seed, taken)
        self._loader = FeatureLoader(data.train, self._device)
        self._objective.balance(data.train.labels)

    def adjust_to_data(self) -> list[str]:
        """Reset what depends on the samples, if `set_data` has changed them.

        Early stopping counts from this epoch; the best epoch's figures are measured again if the
        validation loss is defined differently now; and an epoch in progress starts again if the
        training samples changed, because their order did. To be called at every rank.

        Returns:
            Lines for the log.
        """
        before, lines = self._basis, []
        self._basis = Basis.from_data(self._data, self._objective)
        if before in (Basis(), self._basis):
            return []
        self._changed_after = self.epoch
        if self.epoch_in_progress and before.train != self._basis.train:
            lines.append(f"epoch {self.epoch + 1} starts again: its training samples have changed")
            self._reset_epoch()
        if self.best.epoch and before.validation != self._basis.validation:
            self._measure_best()
            best, loss = self.best.epoch, self.best.loss
            lines.append(f"the best epoch, {best}, now has validation loss {loss:.5g}")
        return lines

    @property
    def site_counts(self) -> dict[str, int]:
        """The count of samples of each site in an epoch."""
        return self._sampler.counts

    @property
    def epoch_in_progress(self) -> bool:
        """Whether an epoch has begun and not ended."""
        return self._step > 0

    @property
    def stalled(self) -> bool:
        """Whether the patience of early stopping is exhausted."""
        patience = self._settings.patience
        return patience is not None and self.epoch - self.last_improvement >= patience

    @property
    def last_improvement(self) -> int:
        """The best epoch, or the epoch after which the samples changed, if that is later."""
        return max(self.best.epoch, self._changed_after)

    def run_epoch(self, stop: Callable[[], bool]) -> dict[str, Any] | None:
        """Train one epoch, or the rest of it, validate, and return its row of `history.csv`.

        Args:
            stop: called after every step; if it returns True, the epoch is interrupted and None
                is returned.

        Raises:
            DivergedError: a loss or a weight is not finite at some rank; raised at every rank. The
                best epoch and the history are unchanged.
        """
        started = time.monotonic() - self._seconds
        if not self._train(stop):
            self._seconds = time.monotonic() - started
            return None
        size = len(self._sampler)
        row = {
            "epoch": self.epoch + 1,
            "train_loss": self._loss.total().item() / size,
        }
        row |= self._validate()
        loss = row.get("validation_loss", math.inf)
        if "validation_loss" in row and not math.isfinite(loss):
            raise self._diverged("validation loss", self._step)
        self.epoch += 1
        if loss < self.best.loss or not len(self._data.validation):
            figures = {key: value for key, value in row.items() if key != "epoch"}
            self.best = Best(self.epoch, loss, figures, copied_state(self._network))
        row["samples"] = size
        row["seconds"] = time.monotonic() - started
        self._sampler.finish()
        self._taken_pseudonyms = self._sampler.taken_pseudonyms()
        self._reset_epoch()
        self.history.append(row)
        return row

    def _reset_epoch(self) -> None:
        self._step = 0
        self._seconds = 0.0
        self._loss.reset()

    def checkpoint(self, shards: dict[str, int]) -> Checkpoint:
        """The complete state of the run."""
        return Checkpoint(
            epoch=self.epoch,
            step=self._step,
            loss=self._loss.total(),
            network=self._network.state_dict(),
            optimizer=self._optimizer_step.optimizer.state_dict(),
            taken=torch.from_numpy(
                self._taken_pseudonyms.view(np.uint8).reshape(-1, ID_DTYPE.itemsize)
            ),
            shards=shards,
            train=self._basis.train,
            validation=self._basis.validation,
            since=self._changed_after,
            best=self.best.weights,
            best_epoch=self.best.epoch,
            best_loss=self.best.loss,
            best_figures=self.best.figures,
            history=self.history,
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Resume from a checkpoint; call `set_data` next, with the samples of its shards."""
        self._network.load_state_dict(checkpoint.network)
        self._optimizer_step.optimizer.load_state_dict(checkpoint.optimizer)
        self.epoch = checkpoint.epoch
        self._step = checkpoint.step
        self._loss.restore(checkpoint.loss, checkpoint.step)
        self._taken_pseudonyms = checkpoint.taken.numpy().view(ID_DTYPE).reshape(-1)
        self._basis = Basis(checkpoint.train, checkpoint.validation)
        self._changed_after = checkpoint.since
        self.best = Best(
            checkpoint.best_epoch, checkpoint.best_loss, checkpoint.best_figures, checkpoint.best
        )
        self.history = checkpoint.history

    def _train(self, stop: Callable[[], bool]) -> bool:
        """Run the remaining steps of the epoch; False if `stop` interrupted them."""
        size = self._settings.batch_size
        positions, features = self._sampler.draw(self.epoch)
        # A single sample has no batch statistics: batch normalisation uses its running ones.
        self._network.train(len(positions) > 1)
        order, rows = even_batches(positions, size), even_batches(features, size)
        steps = len(order)
        while self._step < steps:
            self._optimizer_step.set_rate(self.epoch + self._step / steps)
            self._train_step(order[self._step], rows[self._step])
            self._step += 1
            if self._step % STEPS_BETWEEN_LOSS_CHECKS == 0:
                self._check_finite()
            if self._must_stop(stop) and self._step < steps:
                self._check_finite(self._network)
                return False
        self._check_finite(self._network)
        return True

    def _check_finite(self, network: nn.Module | None = None) -> None:
        """Raise `DivergedError` if the loss of a step, or a weight of `network`, is not finite."""
        if step := self._loss.first_non_finite(self._step, network):
            raise self._diverged("training loss", step)

    def _diverged(self, what: str, step: int) -> DivergedError:
        return diverged(what, self.epoch + 1, step, self._settings, self._precision.name)

    def _must_stop(self, stop: Callable[[], bool]) -> bool:
        if self._ranks.world == 1:
            return stop()
        return self._step % STEPS_BETWEEN_STOP_CHECKS == 0 and self._ranks.any(stop())

    def _train_step(self, order: torch.Tensor, rows: torch.Tensor) -> None:
        self._seed_step()
        local = self._ranks.local_slice(torch.arange(len(order)))
        count = len(local)
        # A rank without samples in the last batch contributes a loss of weight 0.
        batch = self._augmenter(
            lambda part: (self._loader.features(rows[part]), self._loader.labels(order[part])),
            local if count else torch.zeros(1, dtype=torch.int64),
            len(order),
            self.epoch,
            self._step,
        )
        with self._precision.autocast():
            outputs = self._model(batch.features)
        loss = batch.loss(self._objective, outputs.float())
        # With this weight, the mean over ranks equals the mean over the batch.
        weight = count * self._ranks.world / len(order)
        self._optimizer_step.step(loss if weight == 1 else loss * weight)
        self._loss.add(loss, count)
        self.trained_samples += len(order)

    def _seed_step(self) -> None:
        parts = (self._seed, self.epoch, self._step, self._ranks.rank)
        seed = zlib.crc32(struct.pack("<4q", *parts))
        torch.default_generator.manual_seed(seed)
        if self._device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _measure_best(self) -> None:
        """Measure the best epoch's figures again, on the current validation samples."""
        current = copied_state(self._network)
        self._network.load_state_dict(self.best.weights)
        figures = {"train_loss": self.best.figures["train_loss"], **self._validate()}
        self._network.load_state_dict(current)
        loss = figures.get("validation_loss", math.inf)
        # No loss compares as lower than NaN.
        self.best = replace(self.best, loss=math.inf if math.isnan(loss) else loss, figures=figures)

    def _validate(self) -> dict[str, float]:
        """The validation columns of `history.csv`; {} without validation samples."""
        samples = self._data.validation
        if not len(samples):
            return {}
        classes = self._objective.labels.kind != "regression"
        total = torch.zeros(2, dtype=torch.float64)
        local = self._ranks.local_slice(torch.arange(len(samples)))
        blocks = iterate_outputs(self._network, samples, local, self._precision)
        for outputs, positions in zip(blocks, torch.split(local, EVALUATION_BATCH), strict=False):
            labels = samples.labels[positions]
            total[0] += self._objective.loss(outputs, labels) * len(positions)
            total[1] += self._objective.correct(outputs, labels) if classes else 0
        loss, correct = (self._ranks.sum(total) / len(samples)).tolist()
        return {"validation_loss": loss} | ({"validation_accuracy": correct} if classes else {})


def iterate_outputs(
    network: nn.Module, samples: StoredSamples, positions: torch.Tensor, precision: Precision
) -> Iterator[torch.Tensor]:
    """The network's outputs for the first view of the samples at (n,) positions.

    Yields blocks (at most EVALUATION_BATCH, outputs), float32, on the CPU.
    """
    loader = FeatureLoader(samples, precision.device)
    network.eval()
    with torch.inference_mode():
        for rows in (
            torch.split(samples.rows[positions], EVALUATION_BATCH) if len(positions) else ()
        ):
            with precision.autocast():
                outputs = network(loader.features(rows))
            yield outputs.float().cpu()


def predict(network: nn.Module, samples: StoredSamples, device: torch.device) -> torch.Tensor:
    """The network's outputs for every sample's first view, (N, outputs) float32 on the CPU."""
    precision = Precision("fp32", device, "for evaluation")
    network = channels_last(network)
    return torch.cat(list(iterate_outputs(network, samples, torch.arange(len(samples)), precision)))
