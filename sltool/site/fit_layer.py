"""Fitting a privacy layer whose code serves the task.

The layer is fitted through what ships: clipping, noise and quantisation. What a code of tens of
bits holds beside the task is little, and noise takes most of it. For longer codes there can be an
adversary: a decoder that learns to rebuild the samples from their codes while the layer is fitted.
The layer is rewarded for its errors, but only down to those of the mean sample (Li et
al., "ResSFL: A Resistance Transfer Framework for Defending Model Inversion Attack in Split
Federated Learning", 2022, https://arxiv.org/abs/2205.04007): beyond that, an error has more
information than the mean. The distance correlation of samples and codes can be a further penalty
(Vepakomma et al., "NoPeek: Information leakage reduction to share activations in distributed deep
learning", 2020, https://arxiv.org/abs/2008.09161).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from sltool.errors import DivergedError
from sltool.models.precision import channels_last, choose_precision
from sltool.models.quantise import quantise
from sltool.progress import Progress
from sltool.site.audit.decoders import DenseDecoder, RowDecoder
from sltool.site.audit.measures import ssim
from sltool.site.augment import Augmenter
from sltool.site.torch_encoder import clip_and_add_noise
from sltool.study.schema import Study

# At most so many samples in a step, of `training.batch_size`.
MOST = 256
# Samples whose sum is taken at a time.
BLOCK = 256
RATE, DECAY = 2e-3, 1e-3
# Side of the pictures that the adversary rebuilds: a short code has no detail that is finer.
PICTURE = 32
# Steps of the adversary for each step of the layer.
PURSUIT = 2
# Weight of the structural similarity in the adversary's loss, as in the audit's decoders.
SIMILARITY = 0.1
HIDDEN = 128
DROPOUT = 0.2
# Of the contrastive loss for images without labels (Chen et al., "A Simple Framework for
# Contrastive Learning of Visual Representations", 2020).
TEMPERATURE = 0.2


@dataclass(frozen=True)
class FitData:
    """The samples that a layer is fitted on.

    Attributes:
        inputs: (n, *shape) in the source's units.
        labels: (n,), or None: then images are told apart from each other instead.
    """

    inputs: NDArray[Any]
    labels: NDArray[Any] | None

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True)
class FitOptions:
    """How a layer is fitted.

    Attributes:
        epochs: passes over the samples.
        weight: of the adversary's success, relative to the task's loss; 0: no adversary is trained.
        distance_weight: of the distance correlation of samples and codes.
    """

    epochs: int = 100
    weight: float = 0.0
    distance_weight: float = 0.0


@dataclass(frozen=True)
class Fit:
    """The state of a fit after its last epoch, on the samples that it was fitted on.

    Attributes:
        task: accuracy, or for regression the share of the variance that is explained.
        leak: of the adversary: 0 is the mean sample, 1 the sample; None without an adversary.
    """

    task: float
    leak: float | None

    def describe(self) -> str:
        """'task 0.940, adversary's leak 0.021'."""
        adversary = "" if self.leak is None else f", adversary's leak {self.leak:.3f}"
        return f"task {self.task:.3f}{adversary}"


def fit_layer(
    layer: nn.Module,
    study: Study,
    data: FitData,
    options: FitOptions,
    device: torch.device,
    progress: Progress,
) -> Fit:
    """Fit a privacy layer, in place, from torch's generator.

    Args:
        layer: from standardised samples (N, *shape) to codes.

    Raises:
        DivergedError: the loss is not finite.
    """
    fitting = _Fitting(layer, study, data, options, device)
    fit = Fit(0.0, 0.0)
    with progress.bar("fit privacy layer", options.epochs) as advance:
        for epoch in range(1, options.epochs + 1):
            fit = fitting.run_epoch(epoch)
            progress.detail(f"epoch {epoch}: {fit.describe()}")
            advance(1)
    layer.eval().cpu()
    return fit


class _Fitting:
    def __init__(
        self,
        layer: nn.Module,
        study: Study,
        data: FitData,
        options: FitOptions,
        device: torch.device,
    ) -> None:
        # Convolutions are several times as fast with both, on hardware with native products.
        self._precision = choose_precision("auto", layer, device)
        self._layer = channels_last(layer.train().to(device))
        self._options = options
        self._encoding, self._data = study.encoding, data
        self._batch = min(study.training.batch_size, MOST)
        self._samples = _Samples(study, data, device)
        with torch.no_grad():
            shape = tuple(self._maps(self._samples.batch(torch.arange(2))[0]).shape[1:])
        self._task = _task(study, data, math.prod(shape)).to(device)
        self._adversary = _Adversary(shape, self._samples.mean, device) if options.weight else None
        parameters = [*layer.parameters(), *self._task.parameters()]
        self._optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=DECAY)
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            self._optimizer, max(1, options.epochs)
        )

    def run_epoch(self, epoch: int) -> Fit:
        total = torch.zeros(3, dtype=torch.float64)
        for rows in torch.split(torch.randperm(len(self._data)), self._batch):
            if len(rows) > 1:  # Batch normalisation needs two samples.
                figures = self._step(rows)
                total += torch.tensor([*figures, 1.0], dtype=torch.float64) * len(rows)
        self._schedule.step()
        task, leak, count = total.tolist()
        if not math.isfinite(task + leak):
            raise DivergedError(
                f"the loss of fitting is not finite in epoch {epoch}",
                hint="fit again with a smaller --weight",
            )
        return Fit(task / count, leak / count if self._adversary else None)

    def _maps(self, standardised: torch.Tensor) -> torch.Tensor:
        """The layer's output in float32."""
        if standardised.ndim == 4:
            standardised = standardised.contiguous(memory_format=torch.channels_last)
        with self._precision.autocast():
            maps: torch.Tensor = self._layer(standardised)
        return maps.float()

    def _step(self, rows: torch.Tensor) -> tuple[float, float]:
        """One step of the adversary and of the layer; the task's figure and the leak."""
        standardised, targets = self._samples.batch(rows)
        maps = clip_and_add_noise(self._maps(standardised), self._encoding, torch.randn_like)
        codes = quantise(maps, self._encoding.levels)
        loss, figure = self._task(codes, self._samples.labels(rows))
        leak = torch.zeros(())
        if self._adversary is not None:
            for _ in range(PURSUIT):
                self._adversary.learn(codes.detach(), targets)
            leak = self._adversary.leak(codes, targets)
        penalty = self._options.weight * leak
        if self._options.distance_weight:
            distance = distance_correlation(standardised, codes)
            penalty = penalty + self._options.distance_weight * distance
        self._optimizer.zero_grad()
        (loss + penalty).backward()
        self._optimizer.step()
        return figure, float(leak.detach())


class _Samples:
    """Batches on the device: a random version of each image, standardised; and the targets.

    Attributes:
        mean: (1, ...) the mean of the targets: of pictures of at most PICTURE pixels a side, from 0
            to 1, or of standardised rows.
    """

    def __init__(self, study: Study, data: FitData, device: torch.device) -> None:
        columns = (1, -1) + (1,) * (len(study.samples.shape) - 1)
        self._mean = torch.tensor(study.samples.mean, device=device).reshape(columns)
        self._sd = torch.tensor(study.samples.sd, device=device).reshape(columns)
        self._inputs = torch.from_numpy(data.inputs)
        self._labels = None if data.labels is None else torch.from_numpy(data.labels)
        self._device = device
        self._is_image = data.inputs.ndim == 4
        whole = data.inputs.dtype == "uint8"
        self._low = 0.0 if whole else float(data.inputs.min())
        self._high = 255.0 if whole else float(data.inputs.max())
        seed = int(torch.randint(2**62, ()))
        self._augment = Augmenter(study.encoding, seed) if self._is_image else None
        self._versions = 1 if data.labels is not None else 2
        self.mean = self._target(self._mean_of_inputs())

    def batch(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The network's inputs, and what the adversary has to rebuild.

        Without labels there are two versions of each image, one after the other.
        """
        x = self._inputs[rows].to(self._device, torch.float32)
        if self._augment is not None:
            versions = self._augment(x, 2)
            x = versions[1::2] if self._versions == 1 else versions
        return (x - self._mean) / self._sd, self._target(x)

    def labels(self, rows: torch.Tensor) -> torch.Tensor | None:
        return None if self._labels is None else self._labels[rows].to(self._device)

    def _target(self, x: torch.Tensor) -> torch.Tensor:
        if not self._is_image:
            return (x - self._mean) / self._sd
        size = (min(x.shape[2], PICTURE), min(x.shape[3], PICTURE))
        pictures = F.adaptive_avg_pool2d(x, size)
        return ((pictures - self._low) / max(self._high - self._low, 1e-12)).clamp(0, 1)

    def _mean_of_inputs(self) -> torch.Tensor:
        parts = [
            block.double().sum(dim=0, keepdim=True) for block in torch.split(self._inputs, BLOCK)
        ]
        total = torch.stack(parts).sum(dim=0) / len(self._inputs)
        return total.to(self._device, torch.float32)


class _Adversary:
    """A decoder of codes (n, *code) that starts from the mean of the targets (1, *shape)."""

    def __init__(self, code: tuple[int, ...], mean: torch.Tensor, device: torch.device) -> None:
        shape = tuple(mean.shape[1:])
        self._is_image = len(shape) == 3
        decoder = DenseDecoder(code, shape) if self._is_image else RowDecoder(code, *shape)
        self._decoder = decoder.to(device)
        self._mean = mean
        self._optimizer = torch.optim.Adam(decoder.parameters(), lr=RATE)

    def learn(self, codes: torch.Tensor, targets: torch.Tensor) -> None:
        """One step on (n, *code) and (n, *shape)."""
        rebuilt = self._rebuild(codes)
        loss = F.mse_loss(rebuilt, targets)
        if self._is_image:
            loss = loss + SIMILARITY * (1 - ssim(rebuilt, targets).mean())
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()

    def leak(self, codes: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """From 0 (not better than the mean sample) to 1: by squared error, and for images by SSIM.

        The mean of both for images; the gradient is that of the codes alone.
        """
        rebuilt, mean = self._rebuild(codes), self._mean.expand_as(targets)
        explained = 1 - F.mse_loss(rebuilt, targets) / F.mse_loss(mean, targets).clamp(min=1e-9)
        if not self._is_image:
            return F.relu(explained)
        known = ssim(mean, targets).mean()
        similar = (ssim(rebuilt, targets).mean() - known) / (1 - known).clamp(min=1e-9)
        return (F.relu(explained) + F.relu(similar)) / 2

    def _rebuild(self, codes: torch.Tensor) -> torch.Tensor:
        start = self._mean.expand(len(codes), *self._mean.shape[1:])
        rebuilt: torch.Tensor = self._decoder(codes, start)
        return rebuilt


def _task(study: Study, data: FitData, values: int) -> nn.Module:
    if data.labels is None:
        return _Instances(values)
    return _Supervised(study, values)


class _Supervised(nn.Module):
    """A small head that predicts the label from the code; it is not kept."""

    def __init__(self, study: Study, values: int) -> None:
        super().__init__()
        self._labels = study.samples.labels
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(values, HIDDEN),
            nn.BatchNorm1d(HIDDEN),
            nn.ReLU(),
            nn.Dropout(DROPOUT),
            nn.Linear(HIDDEN, self._labels.outputs),
        )

    def forward(self, codes: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, float]:
        outputs = self.head(codes)
        if self._labels.kind == "multiclass":
            right = (outputs.argmax(dim=1) == labels).float().mean()
            return F.cross_entropy(outputs, labels.long()), float(right)
        outputs = outputs.squeeze(1)
        if self._labels.kind == "binary":
            right = ((outputs > 0) == (labels > 0)).float().mean()
            return F.binary_cross_entropy_with_logits(outputs, labels.float()), float(right)
        wanted = (labels.float() - self._labels.mean) / self._labels.sd
        loss = F.mse_loss(outputs, wanted)
        return loss, float(1 - loss.detach() / wanted.var(correction=0).clamp(min=1e-9))


class _Instances(nn.Module):
    """Without labels: two versions of an image have similar codes, other images different ones."""

    def __init__(self, values: int) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Flatten(), nn.Linear(values, HIDDEN))

    def forward(self, codes: torch.Tensor, labels: None) -> tuple[torch.Tensor, float]:
        points = F.normalize(self.project(codes), dim=1)
        likeness = points @ points.T / TEMPERATURE
        likeness.fill_diagonal_(-math.inf)
        # The versions of an image are neighbours: 0 and 1, 2 and 3 ...
        other = torch.arange(len(points), device=points.device) ^ 1
        right = (likeness.argmax(dim=1) == other).float().mean()
        return F.cross_entropy(likeness, other), float(right)


def distance_correlation(samples: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """The squared distance correlation of (n, ...) x 2, 0 to 1 and differentiable.

    Szekely, Rizzo & Bakirov, "Measuring and testing dependence by correlation of distances", 2007.
    """
    a, b = (_centred(torch.cdist(part.flatten(1), part.flatten(1))) for part in (samples, codes))
    return (a * b).mean() / ((a * a).mean() * (b * b).mean()).sqrt().clamp(min=1e-9)


def _centred(distances: torch.Tensor) -> torch.Tensor:
    rows, columns = distances.mean(dim=0, keepdim=True), distances.mean(dim=1, keepdim=True)
    return distances - rows - columns + distances.mean()
