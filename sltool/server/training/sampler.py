"""The samples of each epoch and their order, with the contribution of each site.

A site with n samples contributes c of them to an epoch. Every sample is drawn c // n times; the
remaining c % n are drawn at random among those that were drawn least often since the run began. So
the draw counts of a site's samples never differ by more than one, and every sample is drawn at
least once in ceil(n / c) epochs.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from sltool.server.store import StoredSamples
from sltool.server.training.site_control import SiteControl


class Sampler:
    """The order of an epoch's samples: a function of the seed, the epoch and `taken`.

    Args:
        taken: (N,) bool, the samples that were drawn once more than the others of their site so
            far. None: at the start of the run.
    """

    def __init__(
        self,
        samples: StoredSamples,
        control: SiteControl,
        seed: int,
        taken: torch.Tensor | None = None,
    ) -> None:
        sizes = np.bincount(samples.site, minlength=len(samples.sites)).tolist()
        self.counts = control.counts(dict(zip(samples.sites, sizes, strict=True)))
        self.taken = torch.zeros(len(samples), dtype=torch.bool) if taken is None else taken
        self._samples = samples
        self._seed = seed
        ends = np.cumsum(sizes).tolist()
        self._spans = [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]
        self._taken_after = self.taken

    def __len__(self) -> int:
        """The count of samples in an epoch."""
        return sum(self.counts.values())

    def draw(self, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The epoch's samples in order: their (n,) positions, and (n,) rows of `features`."""
        rng = np.random.default_rng([self._seed, epoch])
        taken = self.taken.numpy().copy()
        parts = [
            span.start + draw(taken[span], count, rng)
            for span, count in zip(self._spans, self.counts.values(), strict=True)
        ]
        self._taken_after = torch.from_numpy(taken)
        order = torch.from_numpy(np.concatenate(parts)[rng.permutation(len(self))])
        rows = self._samples.rows[order]
        if self._samples.views > 1:
            rows += torch.from_numpy(rng.integers(self._samples.views, size=len(rows)))
        return order, rows

    def finish(self) -> None:
        """Update `taken`: the epoch that was drawn last is completed."""
        self.taken = self._taken_after

    def taken_pseudonyms(self) -> NDArray[np.bytes_]:
        """The pseudonyms of the samples in `taken`, which outlast a change of the samples."""
        pseudonyms: NDArray[np.bytes_] = self._samples.pseudonyms[self.taken.numpy()]
        return pseudonyms


def even_batches(epoch: torch.Tensor, size: int) -> tuple[torch.Tensor, ...]:
    """An epoch's (n,) samples in the fewest batches of at most `size`, of nearly equal size.

    Batch sizes differ by at most one sample: with full batches the last one could be a single
    sample, over which batch normalisation is meaningless.
    """
    return torch.tensor_split(epoch, -(-len(epoch) // size))


def draw(taken: NDArray[np.bool_], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """The positions of a site's next `count` samples; updates `taken` in place."""
    rounds, rest = divmod(count, len(taken))
    all_samples = np.tile(np.arange(len(taken)), rounds)
    if not rest:
        return all_samples
    behind = np.flatnonzero(~taken)
    if rest < len(behind):
        chosen = rng.choice(behind, rest, replace=False)
        taken[chosen] = True
        return np.concatenate([all_samples, chosen])
    # All samples that are behind, then some of the others: none is drawn twice here.
    second = rng.choice(np.flatnonzero(taken), rest - len(behind), replace=False)
    taken[:] = False
    taken[second] = True
    return np.concatenate([all_samples, behind, second])
