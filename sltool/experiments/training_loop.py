"""The one place where the comparisons touch the server's trainer and evaluation.

`train_run` is `server-train` and `evaluate` as a user runs them. `Loop` is for the arms that the
server has no business with (federated, online): the same optimiser, schedule, loss and batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sltool.experiments.arm_files import TrainingSummary
from sltool.files import copy, write_csv
from sltool.progress import Progress
from sltool.server.evaluation.evaluate import evaluate, write_predictions
from sltool.server.intake.lock import only_server
from sltool.server.intake.queue import Queue
from sltool.server.store import Store, StoredSamples
from sltool.server.training.divergence import diverged, is_finite
from sltool.server.training.loader import FeatureLoader
from sltool.server.training.objective import Objective
from sltool.server.training.optimizer import OptimizerStep
from sltool.server.training.precision import choose_precision
from sltool.server.training.run import train
from sltool.server.training.run_settings import RunOptions
from sltool.server.training.sampler import even_batches
from sltool.server.training.trainer import predict
from sltool.study.layout import PLAIN, RunFolder, StudyFolder
from sltool.study.schema import Study

# (rows of `features`, positions among the samples) -> outputs (n, outputs)
Forward = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class ServerData:
    """A study with everything in its store."""

    folder: StudyFolder
    study: Study
    store: Store


def train_run(
    data: ServerData,
    name: str,
    sites: Sequence[str],
    seed: int,
    device: torch.device,
    progress: Progress,
    target: Path,
) -> TrainingSummary:
    """Train and evaluate a run through the server's stages; its tables are copied to `target`.

    Raises:
        KeyboardInterrupt: the user stopped it; the run's checkpoint keeps what was done.
    """
    options = RunOptions(run=name, sites=sites, seed=seed)
    with only_server(data.folder):
        trained = train(data.folder, data.study, data.store, options, device, progress)
    if trained.stopped:
        raise KeyboardInterrupt
    evaluate(data.folder, data.study, data.store, name, PLAIN, device)
    run = data.folder.run(name)
    for path in (run.history, run.predictions(PLAIN)):
        copy(path, target / path.name)
    return TrainingSummary(trained.samples, trained.epochs, trained.best_epoch)


def take_in(folder: StudyFolder, study: Study, progress: Progress) -> Store:
    """The store after everything in the inbox was taken in.

    Raises:
        ShardRefusedError: a shard was refused; here that is a fault.
    """
    queue = Queue(folder, study)
    with only_server(folder):
        intake = queue.take(progress)
        for shard in intake.quarantined:
            # A simulated site may have only a few samples, and all of one class.
            queue.approve(shard.name, progress)
    for one in (*intake.rejected, *intake.left):
        raise one.error
    return queue.store


class Loop:
    """Training a whole network by the study's settings, for the arms that need their own loop.

    Args:
        network: whose parameters are trained.
        samples: the training samples of this loop.
        seed: of the order of samples and of dropout.
    """

    def __init__(
        self,
        network: nn.Module,
        study: Study,
        samples: StoredSamples,
        seed: int,
        device: torch.device,
    ) -> None:
        torch.set_flush_denormal(True)
        self.network = network
        self.samples = samples
        self._settings = study.training
        self._objective = make_task(study)
        self._objective.balance(samples.labels)
        self._seed = seed
        self._loader = FeatureLoader(samples, device)
        self._precision = choose_precision("auto", network, device)
        self.reset_optimizer()

    def reset_optimizer(self) -> None:
        """Go on with a new optimiser."""
        self._optimizer_step = OptimizerStep(self.network, self._settings)

    def epoch(self, number: int, forward: Forward) -> float:
        """One pass in the order of (seed, number); returns the mean training loss.

        Raises:
            DivergedError: the loss or a weight is no finite number any more.
        """
        self.network.train()
        torch.manual_seed(hash((self._seed, number)) & (2**63 - 1))
        total = 0.0
        batches = even_batches(self._order(number), self._settings.batch_size)
        for step, order in enumerate(batches):
            self._optimizer_step.set_rate(number + step / len(batches))
            with self._precision.autocast():
                outputs = forward(self._rows(order, number, step), order)
            loss = self._objective.loss(outputs.float(), self._loader.labels(order))
            self._optimizer_step.step(loss)
            total += loss.item() * len(order)
            if not math.isfinite(total):
                raise diverged("training loss", number + 1, step + 1, self._settings)
        if not is_finite(self.network):
            raise diverged("training loss", number + 1, len(batches), self._settings)
        return total / len(self.samples)

    def _order(self, number: int) -> torch.Tensor:
        rng = np.random.default_rng([self._seed, number])
        return torch.from_numpy(rng.permutation(len(self.samples)))

    def _rows(self, order: torch.Tensor, number: int, step: int) -> torch.Tensor:
        rows = self.samples.rows[order]
        if self.samples.views > 1:
            rng = np.random.default_rng([self._seed, number, step])
            rows = rows + torch.from_numpy(rng.integers(self.samples.views, size=len(rows)))
        return rows

    def inputs(self, rows: torch.Tensor) -> torch.Tensor:
        """The standardised inputs of `rows`, on the device."""
        return self._loader.features(rows)

    def whole(self, rows: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
        """The `Forward` of a network that takes the inputs alone."""
        outputs: torch.Tensor = self.network(self.inputs(rows))
        return outputs


class Best:
    """The state with the lowest validation loss so far, and the history of all epochs."""

    def __init__(self) -> None:
        self.history: list[dict[str, Any]] = []
        self.epoch = 0
        self.state: dict[str, torch.Tensor] = {}
        self._loss = float("inf")

    def update(self, network: nn.Module, row: dict[str, Any]) -> None:
        """Enter the row of an epoch; keep its state if no earlier one was as good."""
        self.history.append(row)
        if row["validation_loss"] < self._loss:
            self._loss = row["validation_loss"]
            self.epoch = row["epoch"]
            self.state = {name: value.clone() for name, value in network.state_dict().items()}


def make_task(study: Study) -> Objective:
    """The loss and predictions of the study's labels."""
    return Objective(study.samples.labels, study.training)


def network_outputs(
    network: nn.Module, samples: StoredSamples, device: torch.device
) -> torch.Tensor:
    """(N, outputs) on the CPU, for each sample's first view."""
    return predict(network, samples, device)


def figures(study: Study, outputs: torch.Tensor, samples: StoredSamples) -> dict[str, float]:
    """The validation columns of `history.csv`."""
    objective = make_task(study)
    row = {"validation_loss": objective.loss(outputs, samples.labels).item()}
    if study.samples.labels.kind != "regression":
        right = objective.correct(outputs, samples.labels).item()
        row["validation_accuracy"] = right / len(samples)
    return row


def write_outcome(
    target: Path,
    study: Study,
    samples: StoredSamples,
    y_pred: Any,
    history: Sequence[dict[str, Any]],
) -> None:
    """Leave an arm's `predictions.csv` and, where it was trained in epochs, `history.csv`.

    Args:
        y_pred: (N,) or (N, classes) for the test `samples`, in the label's unit or probabilities.
    """
    path = RunFolder("arm", target).predictions(PLAIN)
    write_predictions(path, study, samples, np.asarray(y_pred))
    if history:
        write_csv(target / "history.csv", history)


def write_network(
    target: Path, study: Study, samples: StoredSamples, outputs: torch.Tensor, best: Best
) -> None:
    """The same for a network's (N, outputs) on the test samples."""
    y_pred = make_task(study).predict(outputs).numpy()
    write_outcome(target, study, samples, y_pred, best.history)
