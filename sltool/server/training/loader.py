"""Loads batches of feature maps from the store to the device."""

from __future__ import annotations

import math
from copy import copy

import torch
from torch.nn import functional as F

from sltool.server.store import StoredSamples
from sltool.shard.packing import byte_values

# The share of a GPU's free memory that feature maps may take.
GPU_SHARE = 0.5


class FeatureLoader:
    """Batches of one split's samples on a device.

    On a GPU, all feature maps are kept in its memory if they take at most half of what is free;
    otherwise batches are copied from pinned memory. On a CPU, they are read from the store's
    memory-mapped file, through the operating system's page cache. Quantised feature maps are
    unpacked on the device, a batch at a time.
    """

    def __init__(self, samples: StoredSamples, device: torch.device) -> None:
        self._device = device
        self._features = samples.features
        self._labels = samples.labels.to(device)
        self._shape = samples.shape.feature_shape
        scale = samples.shape.scale
        # (256, values a byte)
        self._values = None if scale is None else torch.from_numpy(byte_values(scale)).to(device)
        if device.type == "cuda" and self._fits():
            self._features = samples.features.to(device)

    def for_samples(self, samples: StoredSamples) -> FeatureLoader:
        """A loader of other samples of the same split, with the same feature maps in memory."""
        loader = copy(self)
        loader._labels = samples.labels.to(self._device)
        return loader

    def _fits(self) -> bool:
        size = self._features.numel() * self._features.element_size()
        free, _ = torch.cuda.mem_get_info(self._device)
        return size <= GPU_SHARE * free

    def features(self, rows: torch.Tensor) -> torch.Tensor:
        """The feature maps of these rows, (n, *feature_shape) float32, channels last."""
        batch = self._features.index_select(0, rows.to(self._features.device))
        if self._device.type == "cuda" and batch.device.type == "cpu":
            batch = batch.pin_memory()
        if self._values is None:
            batch = batch.to(self._device, torch.float32, non_blocking=True)
        else:
            packed = batch.to(self._device, non_blocking=True).int()
            values = F.embedding(packed, self._values).flatten(1)
            batch = values[:, : math.prod(self._shape)].reshape(-1, *self._shape)
        return batch.contiguous(memory_format=torch.channels_last) if batch.dim() == 4 else batch

    def labels(self, positions: torch.Tensor) -> torch.Tensor:
        """The labels of the samples at these positions, (n,) float32 or int64."""
        return self._labels[positions.to(self._device)]
