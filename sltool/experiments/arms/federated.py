"""federated: FedAvg over whole networks (McMahan et al., "Communication-Efficient Learning", 2017).

In a round every site starts from the global weights and trains on its own samples with its own
optimiser; then the server averages the weights, weighted by samples. A round is one epoch; in
`federated:5` the study's epochs are divided into five rounds, so the weights are averaged less
often. Each site keeps its optimiser state between rounds, which assumes that every site takes part
in every round. `federated-stateless` resets it after each round, as is usual where sites may drop
out.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from sltool.experiments.arm_files import TrainingSummary
from sltool.experiments.training_loop import (
    Best,
    Loop,
    network_outputs,
    site_loops,
    validation_metrics,
    write_network,
)
from sltool.experiments.trial import Trial
from sltool.models.base import build
from sltool.study.schema import Study
from sltool.wording import plural

State = dict[str, torch.Tensor]


def run(
    trial: Trial, target: Path, rounds: int | None = None, stateless: bool = False
) -> TrainingSummary:
    """Train in `rounds` rounds, and test the one with the best validation loss over all sites."""
    data, device = trial.raw, trial.device
    epochs = data.study.training.epochs
    network = build(data.study, trial.seed).server_network.to(device)
    sites = site_loops(network, data, trial.seed, device)
    validation, test = data.store.samples("validation"), data.store.samples("test")
    best = Best()
    with trial.progress.bar("train federated", epochs) as advance:
        for epoch_range in _rounds(epochs, rounds or epochs):
            loss = _round(network, sites, epoch_range)
            if stateless:
                for site in sites:
                    site.reset_optimizer()
            row = {"epoch": epoch_range.stop, "train_loss": loss}
            outputs = network_outputs(network, validation, device)
            row |= validation_metrics(data.study, outputs, validation)
            best.update(network, row)
            advance(len(epoch_range))
    network.load_state_dict(best.state)
    write_network(target, data.study, test, network_outputs(network, test, device), best)
    return TrainingSummary(sum(len(site.samples) for site in sites), epochs, best.epoch)


def inapplicable(rounds: int, study: Study) -> str:
    """Why the epochs cannot be divided into `rounds` rounds, or ''."""
    epochs = study.training.epochs
    return "" if rounds <= epochs else f"{plural(epochs, 'epoch')} cannot make {rounds} rounds"


def _rounds(epochs: int, rounds: int) -> list[range]:
    """The epochs of each round, divided as evenly as possible."""
    return [
        range(epochs * index // rounds, epochs * (index + 1) // rounds) for index in range(rounds)
    ]


def _round(network: nn.Module, sites: list[Loop], epochs: range) -> float:
    """Train for one round; returns the mean training loss of its last epoch over all samples."""
    total = sum(len(site.samples) for site in sites)
    mean: State = {}
    loss = 0.0
    for site in sites:
        share = len(site.samples) / total
        site.network.load_state_dict(network.state_dict())
        for epoch in epochs:
            last = site.epoch(epoch)
        loss += share * last
        _add(mean, site.network.state_dict(), share)
    network.load_state_dict(mean)
    return loss


def _add(mean: State, state: State, share: float) -> None:
    """mean += share * state; counters, such as those of batch normalisation, are copied."""
    for name, value in state.items():
        if not value.is_floating_point():
            mean[name] = value
        elif name in mean:
            mean[name] = mean[name] + share * value
        else:
            mean[name] = share * value
