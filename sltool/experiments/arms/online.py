"""online: conventional split learning, in which gradients come back to the sites.

The cut, the starting weights and the batches are multi's. But every site trains a privacy layer of
its own with the gradients that the server sends back for its samples, and so has to be online for
every step (Gupta & Raskar, "Distributed learning of deep neural network over multiple agents",
2018). What multi lacks against this arm is the price of freezing the layer: of "temporal".
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from sltool.experiments.arm_files import TrainingSummary
from sltool.experiments.training_loop import Best, Loop, figures, network_outputs, write_network
from sltool.experiments.trial import Trial
from sltool.models.base import build
from sltool.models.privacy_layer_file import load_privacy_layer
from sltool.server.store import StoredSamples
from sltool.site.encode import clip_and_add_noise
from sltool.study.schema import Encoding


def run(trial: Trial, target: Path) -> TrainingSummary:
    """As many epochs as the study has; the best one by validation loss."""
    raw, device = trial.raw, trial.device
    layer = load_privacy_layer(trial.split.folder, trial.study)
    rest = build(trial.study, trial.seed).server_network
    train = raw.store.samples("train")
    whole = _Online(layer, rest, train.sites, trial.study.encoding).to(device)
    loop = Loop(whole, trial.study, train, trial.seed, device)
    site_of = torch.from_numpy(train.site)
    validation, test = raw.store.samples("validation"), raw.store.samples("test")
    best = Best()
    epochs = trial.study.training.epochs
    with trial.progress.bar("train online", epochs) as advance:
        for number in range(epochs):
            loss = loop.epoch(number, lambda rows, order: whole(loop.inputs(rows), site_of[order]))
            outputs = whole.outputs(validation, device)
            row = {"epoch": number + 1, "train_loss": loss}
            best.update(whole, row | figures(trial.study, outputs, validation))
            advance(1)
    whole.load_state_dict(best.state)
    write_network(target, trial.study, test, whole.outputs(test, device), best)
    return TrainingSummary(len(train), epochs, best.epoch)


class _Online(nn.Module):
    """A privacy layer for each site, and the server network behind them."""

    def __init__(
        self, layer: nn.Module, rest: nn.Module, sites: list[str], encoding: Encoding
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({site: deepcopy(layer) for site in sites})
        self.rest = rest
        self.protection = _Protection(encoding)

    def forward(self, x: torch.Tensor, site: torch.Tensor) -> torch.Tensor:
        """(n, *shape) and the (n,) sites' numbers -> (n, outputs)."""
        order = torch.argsort(site)
        present, sizes = torch.unique_consecutive(site[order], return_counts=True)
        names = list(self.layers)
        parts = [
            self.layers[names[int(number)]](part)
            for number, part in zip(present, torch.split(x[order], sizes.tolist()), strict=True)
        ]
        maps = torch.cat(parts)[torch.argsort(order)]
        outputs: torch.Tensor = self.rest(self.protection(maps))
        return outputs

    def outputs(self, samples: StoredSamples, device: torch.device) -> torch.Tensor:
        """(N, outputs) on the CPU: each sample goes through its own site's layer."""
        result = torch.empty(0)
        for number, name in enumerate(samples.sites):
            mine = torch.from_numpy(samples.site == number)
            network = nn.Sequential(self.layers[name], self.protection, self.rest)
            found = network_outputs(network, _only(samples, mine), device)
            if not len(result):
                result = torch.empty(len(samples), found.shape[1])
            result[mine] = found
        return result


class _Protection(nn.Module):
    """Clips and adds noise as the study says, and so at every step anew."""

    def __init__(self, encoding: Encoding) -> None:
        super().__init__()
        self._encoding = encoding

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return clip_and_add_noise(maps, self._encoding, torch.randn_like)


def _only(samples: StoredSamples, mine: torch.Tensor) -> StoredSamples:
    """The rows to predict; the columns beside them are not needed."""
    return replace(samples, rows=samples.rows[mine])
