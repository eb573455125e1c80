"""The exported networks: from the source's units to probabilities or values, and both halves."""

from __future__ import annotations

import torch
from torch import nn

from sltool.models.quantise import quantise
from sltool.study.schema import Encoding, Labels, Levels, Samples

# How each kind of labels' output is called.
OUTPUTS = {"regression": "value", "binary": "probability", "multiclass": "probabilities"}


class SourceToMaps(nn.Module):
    """Samples (N, *shape) float32 in the source's units -> feature maps (N, *feature_shape).

    Standardises, applies the privacy layer, clips if the study does, and rounds to the levels of a
    quantisation. Without noise and without rounding to the dtype of shards.

    Args:
        levels: of the quantisation; None: do not round.
    """

    mean: torch.Tensor
    sd: torch.Tensor

    def __init__(
        self, layer: nn.Module, samples: Samples, encoding: Encoding, levels: Levels | None = None
    ) -> None:
        super().__init__()
        columns = (1, -1) + (1,) * (len(samples.shape) - 1)
        self.register_buffer("mean", torch.tensor(samples.mean).reshape(columns))
        self.register_buffer("sd", torch.tensor(samples.sd).reshape(columns))
        self.layer = layer
        self._clip = encoding.clip
        self._levels = levels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps: torch.Tensor = self.layer((x - self.mean) / self.sd)
        if self._clip is not None:
            norms = (maps * maps).flatten(1).sum(1).sqrt().clamp(min=self._clip)
            maps = maps * (self._clip / norms).reshape(-1, *(1,) * (maps.dim() - 1))
        return quantise(maps, self._levels)


class MapsToPrediction(nn.Module):
    """Feature maps -> (N,) values in the label's unit or probabilities of the positive class.

    For several classes (N, classes) probabilities.
    """

    def __init__(self, network: nn.Module, labels: Labels) -> None:
        super().__init__()
        self.network = network
        self._labels = labels

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.network(maps)
        if self._labels.kind == "regression":
            return outputs.squeeze(1) * self._labels.sd + self._labels.mean
        if self._labels.kind == "binary":
            return outputs.squeeze(1).sigmoid()
        return outputs.softmax(dim=1)
