"""Which samples make up an epoch, and in which order."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from sltool.server.store import Samples


class Sampler:
    """Batches of one epoch, a function of the seed and the epoch's number alone."""

    def __init__(self, samples: Samples, batch_size: int, seed: int) -> None:
        self._samples = samples
        self._batch_size = batch_size
        self._seed = seed

    def __len__(self) -> int:
        """Steps an epoch."""
        return -(-len(self._samples) // self._batch_size)

    def epoch(self, number: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield (rows of `samples.features`, labels) of each batch; a view a sample is drawn."""
        rng = np.random.default_rng([self._seed, number])
        order = torch.from_numpy(rng.permutation(len(self._samples)))
        rows = self._samples.rows[order]
        if self._samples.views > 1:
            rows += torch.from_numpy(rng.integers(self._samples.views, size=len(rows)))
        labels = self._samples.labels[order]
        size = self._batch_size
        yield from zip(torch.split(rows, size), torch.split(labels, size), strict=True)
