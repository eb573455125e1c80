"""online: conventional split learning, in which gradients come back to the sites.

The cut, the initial weights and the batches are those of multi. Every site trains its own privacy
layer with the gradients that the server sends back for its samples, and so has to be online for
every step (Gupta & Raskar, "Distributed learning of deep neural network over multiple agents",
2018). The difference to multi is the cost of freezing the layer, the "temporal" part of the method.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from sltool.experiments.arm_files import TrainingSummary
from sltool.experiments.training_loop import (
    Best,
    Loop,
    network_outputs,
    validation_metrics,
    write_network,
)
from sltool.experiments.trial import Trial
from sltool.models.base import build
from sltool.models.privacy_layer_file import load_privacy_layer
from sltool.models.quantise import quantise
from sltool.server.store import StoredSamples
from sltool.site.torch_encoder import clip_and_add_noise
from sltool.study.schema import Encoding


def run(trial: Trial, target: Path) -> TrainingSummary:
    """Train for the study's epochs; the best epoch by validation loss is tested."""
    raw, device = trial.raw, trial.device
    layer = load_privacy_layer(trial.feature_maps.folder, trial.study)
    server_network = build(trial.study, trial.seed).server_network
    train = raw.store.samples("train")
    network = _Online(layer, server_network, train.sites, trial.study.encoding).to(device)
    loop = Loop(network, trial.study, train, trial.seed, device)
    site_of = torch.from_numpy(train.site)
    validation, test = raw.store.samples("validation"), raw.store.samples("test")
    best = Best()
    epochs = trial.study.training.epochs
    with trial.progress.bar("train online", epochs) as advance:
        for epoch in range(epochs):
            loss = loop.epoch(
                epoch, lambda x, order: network.maps(x, site_of[order]), network.server_network
            )
            outputs = network.outputs(validation, device)
            row = {"epoch": epoch + 1, "train_loss": loss}
            best.update(network, row | validation_metrics(trial.study, outputs, validation))
            advance(1)
    network.load_state_dict(best.state)
    write_network(target, trial.study, test, network.outputs(test, device), best)
    return TrainingSummary(len(train), epochs, best.epoch)


class _Online(nn.Module):
    """A privacy layer for each site, and the server network after them."""

    def __init__(
        self, layer: nn.Module, server_network: nn.Module, sites: list[str], encoding: Encoding
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({site: deepcopy(layer) for site in sites})
        self.server_network = server_network
        self.protection = _Protection(encoding)

    def maps(self, x: torch.Tensor, site: torch.Tensor) -> torch.Tensor:
        """(n, *shape) inputs and (n,) site indices -> the feature maps that the sites send."""
        order = torch.argsort(site)
        present, sizes = torch.unique_consecutive(site[order], return_counts=True)
        names = list(self.layers)
        parts = [
            self.layers[names[int(site_index)]](part)
            for site_index, part in zip(present, torch.split(x[order], sizes.tolist()), strict=True)
        ]
        maps: torch.Tensor = self.protection(torch.cat(parts)[torch.argsort(order)])
        return maps

    def outputs(self, samples: StoredSamples, device: torch.device) -> torch.Tensor:
        """(N, outputs) on the CPU: each sample passes through the layer of its site."""
        result = torch.empty(0)
        for site_index, name in enumerate(samples.sites):
            selected = torch.from_numpy(samples.site == site_index)
            network = nn.Sequential(self.layers[name], self.protection, self.server_network)
            outputs = network_outputs(network, _select(samples, selected), device)
            if not len(result):
                result = torch.empty(len(samples), outputs.shape[1])
            result[selected] = outputs
        return result


class _Protection(nn.Module):
    """Clips and adds the study's noise, drawn anew at every step."""

    def __init__(self, encoding: Encoding) -> None:
        super().__init__()
        self._encoding = encoding

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        maps = clip_and_add_noise(maps, self._encoding, torch.randn_like)
        return quantise(maps, self._encoding.levels)


def _select(samples: StoredSamples, selected: torch.Tensor) -> StoredSamples:
    """The selected samples, for prediction only: labels and other columns are not selected."""
    return replace(samples, rows=samples.rows[selected])
