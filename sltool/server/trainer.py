"""Training the server network on the feature maps of all sites."""

from __future__ import annotations

import math
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sltool.server.checkpoint import Checkpoint
from sltool.server.feed import Feed
from sltool.server.optimizer import Descent
from sltool.server.precision import Precision
from sltool.server.ranks import Ranks
from sltool.server.sampler import Sampler, SiteControl, even_batches
from sltool.server.store import Samples
from sltool.server.task import Task
from sltool.study import Training

EVALUATION_BATCH = 512
# With several ranks, a wish to stop is asked for every so many steps.
STEPS_BETWEEN_ASKING = 8


@dataclass(frozen=True)
class Data:
    """What a run trains on."""

    train: Samples
    validation: Samples


class Trainer:
    """One run: a server network, its optimiser, and where it stands.

    Every step seeds torch with a function of the run's seed, the epoch, the step and the rank, so
    that dropout is the same after a resume without a generator's state being kept.

    Args:
        network: the server network, on the device where it shall train.
        seed: of the order of samples and of dropout.
    """

    def __init__(
        self,
        network: nn.Module,
        task: Task,
        settings: Training,
        seed: int,
        precision: Precision,
        control: SiteControl,
        ranks: Ranks,
    ) -> None:
        torch.set_flush_denormal(True)
        self.epoch = 0
        self.best_epoch = 0
        self.history: list[dict[str, Any]] = []
        self.trained = 0
        self._task = task
        self._settings = settings
        self._seed = seed
        self._precision = precision
        self._control = control
        self._ranks = ranks
        self._device = precision.device
        self._network = ranks.prepare(_channels_last(network), self._device)
        self._model = ranks.wrap(self._network)
        self._descent = Descent(self._network, settings)
        self._step = 0
        self._loss = torch.zeros((), device=self._device)
        self._best: dict[str, torch.Tensor] = {}
        self._best_loss = math.inf
        self._data: Data
        self._sampler: Sampler
        self._seconds = 0.0

    def use(self, data: Data, taken: torch.Tensor | None = None) -> None:
        """Train on these samples from now on; only between two epochs, or after `restore`.

        Args:
            data: validation may be empty; then the last epoch is the best.
            taken: where the sampler stands among them; None: at the start.
        """
        self._data = data
        self._sampler = Sampler(data.train, self._control, self._seed, taken)
        self._feed = Feed(data.train, self._device)
        self._task.balance(data.train.labels)

    @property
    def shares(self) -> dict[str, int]:
        """Samples of each site in an epoch."""
        return self._sampler.counts

    @property
    def taken(self) -> torch.Tensor:
        """Where the sampler stands."""
        return self._sampler.taken

    @property
    def begun(self) -> bool:
        """Whether an epoch is under way."""
        return self._step > 0

    @property
    def stalled(self) -> bool:
        """Whether early stopping says that the run is done."""
        patience = self._settings.patience
        return patience is not None and self.epoch - self.best_epoch >= patience

    def run_epoch(self, stop: Callable[[], bool]) -> dict[str, Any] | None:
        """Train one epoch, or what is left of it, validate, and return its row of `history.csv`.

        Args:
            stop: asked after every step; the epoch is left there if it says so, and None returned.
        """
        started = time.monotonic() - self._seconds
        if not self._train(stop):
            self._seconds = time.monotonic() - started
            return None
        size = len(self._sampler)
        row = {
            "epoch": self.epoch + 1,
            "train_loss": self._ranks.sum(self._loss).item() / size,
        }
        loss = row["train_loss"]
        if len(self._data.validation):
            loss = self._validate(row)
        self.epoch += 1
        if loss < self._best_loss or not len(self._data.validation):
            self._best_loss, self.best_epoch = loss, self.epoch
            self._best = _copy(self._network.state_dict())
        row["samples"] = size
        row["seconds"] = time.monotonic() - started
        self._start_over()
        self.history.append(row)
        return row

    def _start_over(self) -> None:
        self._sampler.finish()
        self._step = 0
        self._seconds = 0.0
        self._loss = torch.zeros((), device=self._device)

    def best_network(self) -> dict[str, torch.Tensor]:
        """The state dict of the best epoch, on the CPU and in plain memory order; {} before it."""
        return {name: value.cpu().contiguous() for name, value in self._best.items()}

    def checkpoint(self, shards: dict[str, int]) -> Checkpoint:
        """The run's whole state."""
        return Checkpoint(
            epoch=self.epoch,
            step=self._step,
            loss=self._ranks.sum(self._loss),
            network=self._network.state_dict(),
            optimizer=self._descent.optimizer.state_dict(),
            taken=self._sampler.taken,
            shards=shards,
            best=self._best,
            best_epoch=self.best_epoch,
            best_loss=self._best_loss,
            history=self.history,
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint; `use` must follow, with the samples of its shards."""
        self._network.load_state_dict(checkpoint.network)
        self._descent.optimizer.load_state_dict(checkpoint.optimizer)
        self.epoch = checkpoint.epoch
        self._step = checkpoint.step
        if self._ranks.is_first:
            self._loss = checkpoint.loss.to(self._device)
        self._best = checkpoint.best
        self._best_loss = checkpoint.best_loss
        self.best_epoch = checkpoint.best_epoch
        self.history = checkpoint.history

    def _train(self, stop: Callable[[], bool]) -> bool:
        """The steps of the epoch that are left; False if `stop` said so before the last."""
        self._network.train()
        size = self._settings.batch_size
        order, rows = (even_batches(one, size) for one in self._sampler.draw(self.epoch))
        steps = len(order)
        while self._step < steps:
            self._descent.set_rate(self.epoch + self._step / steps)
            self._train_step(order[self._step], rows[self._step])
            self._step += 1
            if self._asked(stop) and self._step < steps:
                return False
        return True

    def _asked(self, stop: Callable[[], bool]) -> bool:
        if self._ranks.world == 1:
            return stop()
        return self._step % STEPS_BETWEEN_ASKING == 0 and self._ranks.any(stop())

    def _train_step(self, order: torch.Tensor, rows: torch.Tensor) -> None:
        self._seed_step()
        # A rank without samples in the last batch takes part with a loss of weight 0.
        mine, my_rows = self._ranks.share(order), self._ranks.share(rows)
        count = len(mine)
        if not count:
            mine, my_rows = order[:1], rows[:1]
        with self._precision.autocast():
            outputs = self._model(self._feed.features(my_rows))
        loss = self._task.loss(outputs.float(), self._feed.labels(mine))
        # The mean over ranks of these is the mean over the batch.
        weight = count * self._ranks.world / len(order)
        self._descent.step(loss if weight == 1 else loss * weight)
        self._loss += loss.detach() * count
        self.trained += len(order)

    def _seed_step(self) -> None:
        numbers = (self._seed, self.epoch, self._step, self._ranks.rank)
        mixed = zlib.crc32(struct.pack("<4q", *numbers))
        torch.default_generator.manual_seed(mixed)
        if self._device.type == "cuda":
            torch.cuda.manual_seed(mixed)

    def _validate(self, row: dict[str, Any]) -> float:
        """Add the validation figures to `row`; returns the loss."""
        samples = self._data.validation
        classes = self._task.labels.kind != "regression"
        total = torch.zeros(2, dtype=torch.float64)
        mine = self._ranks.share(torch.arange(len(samples)))
        blocks = outputs_of(self._network, samples, mine, self._precision)
        for outputs, positions in zip(blocks, torch.split(mine, EVALUATION_BATCH), strict=False):
            labels = samples.labels[positions]
            total[0] += self._task.loss(outputs, labels) * len(positions)
            total[1] += self._task.correct(outputs, labels) if classes else 0
        loss, correct = (self._ranks.sum(total) / len(samples)).tolist()
        row["validation_loss"] = loss
        if classes:
            row["validation_accuracy"] = correct
        return float(loss)


def outputs_of(
    network: nn.Module, samples: Samples, positions: torch.Tensor, precision: Precision
) -> Iterator[torch.Tensor]:
    """The network's outputs for the first view of the samples at (n,) positions.

    Yields blocks (at most EVALUATION_BATCH, outputs), float32, on the CPU.
    """
    feed = Feed(samples, precision.device)
    network.eval()
    with torch.inference_mode():
        for rows in (
            torch.split(samples.rows[positions], EVALUATION_BATCH) if len(positions) else ()
        ):
            with precision.autocast():
                outputs = network(feed.features(rows))
            yield outputs.float().cpu()


def predict(network: nn.Module, samples: Samples, device: torch.device) -> torch.Tensor:
    """The network's outputs for every sample's first view, (N, outputs) float32 on the CPU."""
    precision = Precision("fp32", device, "for figures")
    return torch.cat(list(outputs_of(network, samples, torch.arange(len(samples)), precision)))


def _channels_last(network: nn.Module) -> nn.Module:
    moved: nn.Module = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved


def _copy(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in state.items()}
