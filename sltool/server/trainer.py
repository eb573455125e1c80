"""Training the server network on the feature maps of all sites."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from sltool.server.checkpoint import Checkpoint
from sltool.server.sampler import Sampler
from sltool.server.store import Samples
from sltool.server.task import Task
from sltool.study import Training

EVALUATION_BATCH = 512


@dataclass(frozen=True)
class Data:
    """What a run trains on."""

    train: Samples
    validation: Samples


class Trainer:
    """One run: a server network, its optimiser, and where it stands.

    Args:
        network: the server network, on the device where it shall train.
        data: validation may be empty; then the last epoch is the best.
        seed: of the order of samples and of dropout.
    """

    def __init__(
        self, network: nn.Module, data: Data, task: Task, settings: Training, seed: int
    ) -> None:
        self.data = data
        self.epoch = 0
        self.best_epoch = 0
        self.history: list[dict[str, float]] = []
        self._task = task
        self._settings = settings
        self._device = next(network.parameters()).device
        self._network = network
        self._optimizer = make_optimizer(network, settings)
        self._sampler = Sampler(data.train, settings.batch_size, seed)
        self._best: dict[str, torch.Tensor] = {}
        self._best_loss = math.inf
        torch.manual_seed(seed)

    def run_epoch(self) -> dict[str, float]:
        """Train one epoch, validate, and return the epoch's row of `history.csv`."""
        started = time.monotonic()
        train_loss = self._train()
        row = {"epoch": self.epoch + 1, "train_loss": train_loss}
        loss = train_loss
        if len(self.data.validation):
            loss = self._validate(row)
        self.epoch += 1
        if loss < self._best_loss or not len(self.data.validation):
            self._best_loss, self.best_epoch = loss, self.epoch
            self._best = _copy(self._network.state_dict())
        row["samples"] = len(self.data.train)
        row["seconds"] = time.monotonic() - started
        self.history.append(row)
        return row

    def best_network(self) -> dict[str, torch.Tensor]:
        """The state dict of the best epoch, on the CPU and in plain memory order."""
        return {name: value.cpu().contiguous() for name, value in self._best.items()}

    def checkpoint(self) -> Checkpoint:
        """The run's whole state."""
        return Checkpoint(
            epoch=self.epoch,
            network=self._network.state_dict(),
            optimizer=self._optimizer.state_dict(),
            random=torch.get_rng_state(),
            best=self._best,
            best_epoch=self.best_epoch,
            best_loss=self._best_loss,
            history=self.history,
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint."""
        self._network.load_state_dict(checkpoint.network)
        self._optimizer.load_state_dict(checkpoint.optimizer)
        torch.set_rng_state(checkpoint.random)
        self.epoch = checkpoint.epoch
        self._best = checkpoint.best
        self._best_loss = checkpoint.best_loss
        self.best_epoch = checkpoint.best_epoch
        self.history = checkpoint.history

    def _train(self) -> float:
        """One pass over the training samples; the mean loss over them."""
        self._network.train()
        total = torch.zeros((), device=self._device)
        step = self.epoch * len(self._sampler)
        steps = self._settings.epochs * len(self._sampler)
        rate = schedule(self._settings)
        for rows, labels in self._sampler.epoch(self.epoch):
            for group in self._optimizer.param_groups:
                group["lr"] = self._settings.learning_rate * rate(step / steps)
            outputs = self._network(fetch(self.data.train, rows, self._device))
            loss = self._task.loss(outputs, labels.to(self._device))
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            total += loss.detach() * len(rows)
            step += 1
        return total.item() / len(self.data.train)

    def _validate(self, row: dict[str, float]) -> float:
        """Add the validation figures to `row`; returns the loss."""
        samples = self.data.validation
        outputs = predict(self._network, samples, self._device)
        loss = self._task.loss(outputs, samples.labels).item()
        row["validation_loss"] = loss
        if self._task.labels.kind != "regression":
            predicted = self._task.predict(outputs)
            number = predicted.argmax(1) if predicted.dim() == 2 else (predicted >= 0.5).long()
            row["validation_accuracy"] = (number == samples.labels).float().mean().item()
        return loss


def fetch(samples: Samples, rows: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The feature maps of `rows`, (n, *feature_shape) float32 on the device."""
    batch = samples.features.index_select(0, rows).to(device, torch.float32)
    return batch.contiguous(memory_format=torch.channels_last) if batch.dim() == 4 else batch


def predict(network: nn.Module, samples: Samples, device: torch.device) -> torch.Tensor:
    """The network's outputs for every sample's first view, (N, outputs) on the CPU."""
    network.eval()
    with torch.inference_mode():
        parts = [
            network(fetch(samples, rows, device)).float().cpu()
            for rows in torch.split(samples.rows, EVALUATION_BATCH)
        ]
    return torch.cat(parts)


def schedule(settings: Training) -> Callable[[float], float]:
    """The factor on the learning rate, given the share of the run's steps that is done."""
    if settings.schedule == "cosine":
        return lambda done: 0.5 * (1 + math.cos(math.pi * done))
    if settings.schedule == "one-cycle":
        # Smith & Topin, "Super-Convergence", 2018: up over the first 30 %, then down to nothing.
        return lambda done: (
            0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * done / 0.3))
            if done < 0.3
            else 0.5 * (1 + math.cos(math.pi * (done - 0.3) / 0.7))
        )
    return lambda done: 1.0


def make_optimizer(network: nn.Module, settings: Training) -> torch.optim.Optimizer:
    """The optimiser that the study names."""
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "sgd":
        return torch.optim.SGD(network.parameters(), rate, momentum=0.9, weight_decay=decay)
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return kind(network.parameters(), rate, weight_decay=decay, fused=True)


def _copy(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in state.items()}
