"""Privacy layers over many seeds: dead values on real data, and what the seed does to the metric.

A value is dead that is zero, or the same in every sample, as `client-encode` counts it.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from torch.nn import functional as F

from sltool.models.base import build, draw_privacy_layer
from sltool.progress import Silent
from sltool.registry import datasets, load_plugins
from sltool.site.liveness import Liveness
from sltool.site.prepare_stage import prepare_study
from sltool.study.layout import StudyFolder
from sltool.study.schema import Study
from sltool.study.study_file import load_study
from tests.bench import Row
from tests.conftest import DATA, ROOT

BAR = 0.2
SEEDS = range(100)
SAMPLES = 256
RELU = ("model.activation=relu",)


@dataclass(frozen=True)
class TrainingData:
    """A prepared source: its study, standardised samples (N, *shape) and labels (N,)."""

    study: Study
    inputs: torch.Tensor
    labels: torch.Tensor

    def feature_maps(self, seed: int) -> torch.Tensor:
        """What the privacy layer of this seed gives for all samples."""
        layer = draw_privacy_layer(self.study, seed, Path()).eval()
        with torch.inference_mode():
            return torch.cat([layer(part) for part in torch.split(self.inputs, 256)])

    def dead(self, seed: int) -> float:
        """The share of dead values with this seed's privacy layer."""
        liveness = Liveness()
        liveness.add(self.feature_maps(seed))
        return liveness.dead


def prepared(
    name: str, source: Path | None, settings: Sequence[str] = (), samples: int = SAMPLES
) -> TrainingData:
    """A source through `prepare`, with the dataset's recipe; at most `samples`, from everywhere."""
    with tempfile.TemporaryDirectory() as root:
        folder = StudyFolder(Path(root) / "study")
        folder.root.mkdir()
        if source is None and datasets.get(name).needs_source:
            source = datasets.get(name).synthetic_source(Path(root) / "source", samples, 0)
        prepare_study(folder, name, source, settings, 1, 0, False, Silent())
        study = load_study(folder)
        with h5py.File(folder.prepared) as file:
            rows = np.random.default_rng(0).permutation(len(file["inputs"]))[:samples]
            inputs, labels = file["inputs"][:][rows], file["labels"][:][rows]
    columns = (-1,) + (1,) * (inputs.ndim - 2)
    mean, sd = (torch.tensor(part).reshape(columns) for part in _standard(study))
    return TrainingData(
        study, (torch.from_numpy(inputs).float() - mean) / sd, torch.from_numpy(labels).float()
    )


def _standard(study: Study) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return study.samples.mean, study.samples.sd


def rows() -> Iterator[Row]:
    load_plugins([ROOT / "plugins" / "fracatlas.py"])
    sources = {
        "cholesterol (check-ups)": ("cholesterol", "cholesterol/korea_checkup_20000.csv"),
        "cholesterol (direct LDL)": ("cholesterol", "cholesterol/ldl_direct_1000.csv"),
        "cholesterol (NHANES)": ("cholesterol", "nhanes"),
        "cholesterol (bundled)": ("cholesterol", None),
        "covid-ct (Sao Paulo)": ("covid-ct", "covid-ct-sao-paulo"),
        "fracatlas": ("fracatlas", "fracatlas"),
        "mura (synthetic)": ("mura", None),
        "cifar10": ("cifar10", "cifar-10-batches-bin"),
    }
    for what, (name, place) in sources.items():
        yield dead_values(what, prepared(name, DATA / place if place else None, RELU))
    checkups = DATA / "cholesterol/korea_checkup_20000.csv"
    table = ("model.widths=[16, 128, 128]", *RELU, "model.server.activation=leaky-relu")
    yield spread("check-ups, MAE", prepared("cholesterol", checkups, table, 8000), epochs=40)
    one_channel = ("model.filters=[1, 16, 32, 64, 128]", *RELU)
    slices = prepared("covid-ct", DATA / "covid-ct-sao-paulo", one_channel, 2481)
    yield spread("Sao Paulo CT, 1 channel, error rate", slices, epochs=8)


def dead_values(what: str, data: TrainingData, seeds: Sequence[int] = SEEDS) -> Row:
    """The mean and the greatest share of dead values over privacy layers with ReLU."""
    shares = [data.dead(seed) for seed in seeds]
    return Row(
        f"dead values, {what}, {len(shares)} privacy layers",
        f"{statistics.mean(shares):.1%} on average, {max(shares):.1%} at most",
        f"<= {BAR:.0%} in each",
        max(shares) <= BAR,
    )


def spread(what: str, data: TrainingData, epochs: int, seeds: Sequence[int] = range(10)) -> Row:
    """Standard deviations of the error over privacy layers, and over splits."""
    layers = [_error(data, seed, 0, epochs) for seed in seeds]
    splits = [_error(data, 0, seed, epochs) for seed in seeds]
    over_layers, over_splits = statistics.stdev(layers), statistics.stdev(splits)
    return Row(
        f"spread over {len(layers)} privacy layers and as many splits, {what}",
        f"{statistics.mean(layers):.4f} ± {over_layers:.4f} and "
        f"{statistics.mean(splits):.4f} ± {over_splits:.4f}",
        "not more over layers",
        over_layers <= over_splits,
    )


def _error(data: TrainingData, layer_seed: int, split_seed: int, epochs: int) -> float:
    """On a fifth of the samples: of standardised labels the mean error, of classes the rate."""
    regression = data.study.samples.labels.kind == "regression"
    agreed = data.study.samples.labels
    labels = (data.labels - agreed.mean) / agreed.sd if regression else data.labels
    loss = F.mse_loss if regression else F.binary_cross_entropy_with_logits
    maps = data.feature_maps(layer_seed).clone()
    order = torch.randperm(len(maps), generator=torch.Generator().manual_seed(split_seed))
    test, train = order.tensor_split([len(maps) // 5])
    network = build(data.study, 0).server_network
    batches = len(train) // 64
    optimizer = torch.optim.AdamW(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, epochs * batches)
    torch.manual_seed(0)
    for _ in range(epochs):
        shuffled = train[torch.randperm(len(train))][: batches * 64]
        for rows in torch.split(shuffled, 64):
            optimizer.zero_grad()
            loss(network(maps[rows])[:, 0], labels[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    with torch.inference_mode():
        found = network.eval()(maps[test])[:, 0]
    wrong = (found - labels[test]).abs() if regression else (found > 0) != (labels[test] > 0.5)
    return float(wrong.float().mean())
