"""The only module of the comparisons that uses the server's trainer and evaluation.

`train_run` runs the stages `server-train` and `evaluate`. `Loop` is for the arms whose training
the server does not offer (federated, online): the same optimiser, schedule, loss and batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sltool.experiments.arm_files import TrainingSummary
from sltool.files import copy, read_csv, write_csv
from sltool.models.precision import choose_precision
from sltool.progress import Progress
from sltool.server.evaluation.evaluate import evaluate, write_predictions
from sltool.server.intake.lock import only_server
from sltool.server.intake.queue import Queue
from sltool.server.store import Store, StoredSamples
from sltool.server.training.augment import Batch, FeatureAugmenter
from sltool.server.training.divergence import diverged, is_finite
from sltool.server.training.loader import FeatureLoader
from sltool.server.training.objective import Objective
from sltool.server.training.optimizer import OptimizerStep
from sltool.server.training.run import train
from sltool.server.training.run_settings import RunOptions
from sltool.server.training.sampler import even_batches
from sltool.server.training.trainer import predict
from sltool.study.layout import PLAIN, RunFolder, StudyFolder
from sltool.study.schema import Study

# (inputs (n, *shape), positions among the samples) -> feature maps
Encode = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
# feature maps -> outputs (n, outputs)
Predict = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class ServerData:
    """A study and the store that has all its shards."""

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
    """Train and evaluate a run with the server's stages, and copy its tables to `target`.

    Raises:
        KeyboardInterrupt: the user interrupted it; the run can be resumed from its checkpoint.
    """
    options = RunOptions(run=name, sites=sites, seed=seed)
    with only_server(data.folder):
        trained = train(data.folder, data.study, data.store, options, device, progress)
    if trained.interrupted:
        raise KeyboardInterrupt
    evaluate(data.folder, data.study, data.store, name, PLAIN, device)
    run = data.folder.run(name)
    for path in (run.history, run.predictions(PLAIN)):
        copy(path, target / path.name)
    return TrainingSummary(trained.samples, trained.epochs, trained.best_epoch)


def restore_labels(target: Path, samples: StoredSamples) -> None:
    """Put the labels of `samples` in place of those in an arm's `predictions.csv`."""
    path = RunFolder("arm", target).predictions(PLAIN)
    rows = read_csv(path, ("pseudonym", "y_true"), "run the comparison again with --force")
    names = (name.decode("ascii") for name in samples.pseudonyms)
    true = dict(zip(names, samples.labels.tolist(), strict=True))
    write_csv(path, [{**row, "y_true": true[row["pseudonym"]]} for row in rows])


def take_in(folder: StudyFolder, study: Study, progress: Progress) -> Store:
    """Take in every file of the inbox, and return the store.

    Raises:
        ShardRefusedError: a shard was refused; as sltool made it, this is a bug in sltool.
    """
    queue = Queue(folder, study)
    with only_server(folder):
        intake = queue.take(progress)
        for shard in intake.quarantined:
            # A simulated site may have only a few samples, and all of one class.
            queue.approve(shard.name, progress)
    for refused in (*intake.rejected, *intake.left):
        raise refused.error
    return queue.store


class Loop:
    """Trains a whole network with the study's settings, for the arms that need their own loop.

    Args:
        network: its parameters are trained.
        samples: the training samples of this loop.
        seed: for the order of samples, augmentation and dropout.
        loader: of training samples of the same store; None: a new one.
    """

    def __init__(
        self,
        network: nn.Module,
        study: Study,
        samples: StoredSamples,
        seed: int,
        device: torch.device,
        loader: FeatureLoader | None = None,
    ) -> None:
        torch.set_flush_denormal(True)
        self.network = network
        self.samples = samples
        self._settings = study.training
        self._objective = make_objective(study)
        self._objective.balance(samples.labels)
        self._augmenter = FeatureAugmenter(study.training.augment, seed)
        self._seed = seed
        self._loader = loader.for_samples(samples) if loader else FeatureLoader(samples, device)
        self._precision = choose_precision("auto", network, device)
        self.reset_optimizer()

    def reset_optimizer(self) -> None:
        """Continue with a new optimiser."""
        self._optimizer_step = OptimizerStep(self.network, self._settings)

    def epoch(
        self, epoch: int, encode: Encode | None = None, predict: Predict | None = None
    ) -> float:
        """One pass in an order drawn from (seed, epoch); returns the mean training loss.

        Args:
            encode: the layers before `training.augment`; None: it applies to the inputs.
            predict: the layers after it; None: the network.

        Raises:
            DivergedError: the loss or a weight is not finite.
        """
        # A single sample has no batch statistics: batch normalisation uses its running ones.
        self.network.train(len(self.samples) > 1)
        torch.manual_seed(hash((self._seed, epoch)) & (2**63 - 1))
        total = 0.0
        batches = even_batches(self._order(epoch), self._settings.batch_size)
        for step, order in enumerate(batches):
            self._optimizer_step.set_rate(epoch + step / len(batches))
            with self._precision.autocast():
                maps = self._loader.features(self._rows(order, epoch, step))
                maps = encode(maps, order) if encode else maps
                batch = self._augmented(maps, self._loader.labels(order), epoch, step)
                outputs = (predict or self.network)(batch.features)
            loss = batch.loss(self._objective, outputs.float())
            self._optimizer_step.step(loss)
            total += loss.item() * len(order)
            if not math.isfinite(total):
                raise diverged("training loss", epoch + 1, step + 1, self._settings)
        if not is_finite(self.network):
            raise diverged("training loss", epoch + 1, len(batches), self._settings)
        return total / len(self.samples)

    def _augmented(self, maps: torch.Tensor, labels: torch.Tensor, epoch: int, step: int) -> Batch:
        positions = torch.arange(len(maps))
        return self._augmenter(
            lambda part: (maps[part], labels[part]), positions, len(maps), epoch, step
        )

    def _order(self, epoch: int) -> torch.Tensor:
        rng = np.random.default_rng([self._seed, epoch])
        return torch.from_numpy(rng.permutation(len(self.samples)))

    def _rows(self, order: torch.Tensor, epoch: int, step: int) -> torch.Tensor:
        rows = self.samples.rows[order]
        if self.samples.views > 1:
            rng = np.random.default_rng([self._seed, epoch, step])
            rows = rows + torch.from_numpy(rng.integers(self.samples.views, size=len(rows)))
        return rows


def site_loops(network: nn.Module, data: ServerData, seed: int, device: torch.device) -> list[Loop]:
    """A loop for each site's training samples, with a copy of the network.

    The feature maps of all sites are in a GPU's memory once.
    """
    loader = FeatureLoader(data.store.samples("train"), device)
    return [
        Loop(
            deepcopy(network),
            data.study,
            data.store.samples("train", [site]),
            seed,
            device,
            loader,
        )
        for site in data.store.sites()
    ]


class Best:
    """The state with the lowest validation loss so far, and the history of all epochs."""

    def __init__(self) -> None:
        self.history: list[dict[str, Any]] = []
        self.epoch = 0
        self.state: dict[str, torch.Tensor] = {}
        self._loss = float("inf")

    def update(self, network: nn.Module, row: dict[str, Any]) -> None:
        """Record an epoch; keep the network's state if its validation loss is the lowest so far."""
        self.history.append(row)
        if row["validation_loss"] < self._loss:
            self._loss = row["validation_loss"]
            self.epoch = row["epoch"]
            self.state = {name: value.clone() for name, value in network.state_dict().items()}


def make_objective(study: Study) -> Objective:
    """The loss and predictions of the study's labels."""
    return Objective(study.samples.labels, study.training, study.encoding.label_epsilon)


def network_outputs(
    network: nn.Module, samples: StoredSamples, device: torch.device
) -> torch.Tensor:
    """(N, outputs) on the CPU, for each sample's first view."""
    return predict(network, samples, device)


def validation_metrics(
    study: Study, outputs: torch.Tensor, samples: StoredSamples
) -> dict[str, float]:
    """The validation columns of `history.csv`."""
    objective = make_objective(study)
    row = {"validation_loss": objective.loss(outputs, samples.labels).item()}
    if study.samples.labels.kind != "regression":
        correct = objective.correct(outputs, samples.labels).item()
        row["validation_accuracy"] = correct / len(samples)
    return row


def write_outcome(
    target: Path,
    study: Study,
    samples: StoredSamples,
    y_pred: Any,
    history: Sequence[dict[str, Any]],
) -> None:
    """Write an arm's `predictions.csv` and, if it was trained in epochs, `history.csv`.

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
    """As `write_outcome`, from a network's (N, outputs) on the test samples."""
    y_pred = make_objective(study).predict(outputs).numpy()
    write_outcome(target, study, samples, y_pred, best.history)
