"""federated: FedAvg over whole networks (McMahan et al., "Communication-Efficient Learning", 2017).

In a round every site starts from the common weights and trains on its own samples with an
optimiser of its own; then the server takes the mean of the weights, by samples. A round is an
epoch; in `federated:5` the study's epochs are shared among five rounds, so that the sites meet
less often. An optimiser's state stays at its site from round to round: with three hospitals none
drops out. `federated-stateless` forgets it after every round, as where sites come and go.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import torch
from torch import nn

from sltool.experiments.arm_files import TrainingSummary
from sltool.experiments.training_loop import Best, Loop, figures, network_outputs, write_network
from sltool.experiments.trial import Trial
from sltool.models.base import build
from sltool.study.schema import Study

State = dict[str, torch.Tensor]


def run(
    trial: Trial, target: Path, rounds: int | None = None, stateless: bool = False
) -> TrainingSummary:
    """The study's epochs in so many rounds; the best round by validation loss of all sites."""
    data, device = trial.raw, trial.device
    epochs = data.study.training.epochs
    network = build(data.study, trial.seed).server_network.to(device)
    sites = [_site(trial, network, name) for name in data.store.sites()]
    validation, test = data.store.samples("validation"), data.store.samples("test")
    best = Best()
    with trial.progress.bar("train federated", epochs) as advance:
        for numbers in _rounds(epochs, rounds or epochs):
            loss = _round(network, sites, numbers)
            if stateless:
                for site in sites:
                    site.reset_optimizer()
            row = {"epoch": numbers.stop, "train_loss": loss}
            row |= figures(data.study, network_outputs(network, validation, device), validation)
            best.update(network, row)
            advance(len(numbers))
    network.load_state_dict(best.state)
    write_network(target, data.study, test, network_outputs(network, test, device), best)
    return TrainingSummary(sum(len(site.samples) for site in sites), epochs, best.epoch)


def inapplicable(rounds: int, study: Study) -> str:
    """Why the epochs cannot be shared among so many rounds, or ''."""
    epochs = study.training.epochs
    return "" if rounds <= epochs else f"{epochs} epochs cannot make {rounds} rounds"


def _rounds(epochs: int, rounds: int) -> list[range]:
    """The numbers of each round's epochs, as even as whole epochs allow."""
    return [
        range(epochs * number // rounds, epochs * (number + 1) // rounds)
        for number in range(rounds)
    ]


def _site(trial: Trial, network: nn.Module, name: str) -> Loop:
    data = trial.raw
    samples = data.store.samples("train", [name])
    return Loop(deepcopy(network), data.study, samples, trial.seed, trial.device)


def _round(network: nn.Module, sites: list[Loop], numbers: range) -> float:
    """One round of these epochs; returns the last one's mean training loss over all samples."""
    total = sum(len(site.samples) for site in sites)
    mean: State = {}
    loss = 0.0
    for site in sites:
        share = len(site.samples) / total
        site.network.load_state_dict(network.state_dict())
        for number in numbers:
            last = site.epoch(number, site.whole)
        loss += share * last
        _add(mean, site.network.state_dict(), share)
    network.load_state_dict(mean)
    return loss


def _add(mean: State, state: State, share: float) -> None:
    """mean += share * state; counters, such as of batch normalisation, are taken as they are."""
    for name, value in state.items():
        if not value.is_floating_point():
            mean[name] = value
        elif name in mean:
            mean[name] = mean[name] + share * value
        else:
            mean[name] = share * value
