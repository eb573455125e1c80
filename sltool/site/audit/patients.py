"""Who belongs together: no attacker may learn from a patient whom he attacks.

Where a source names no patients, two slices of one patient would fall on both sides, and a decoder
that remembers one "rebuilds" the other. So near-duplicates are put together first, by similarity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Correlation, after the mean image is taken out, from which two images count as near-duplicates;
# the next where a group grows beyond the share: then chains of similar images run through the data.
ALIKE = (0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.999, 0.9999)
LARGEST = 0.1
SIDE = 16
BLOCK = 1024


@dataclass(frozen=True)
class Grouping:
    """Groups of samples that stay on one side.

    Attributes:
        groups: (n,) numbers from 0.
        told: how they were made, a sentence for the report.
        named: whether they are the source's own patients.
    """

    groups: Array
    told: str
    named: bool

    @property
    def count(self) -> int:
        return int(self.groups.max()) + 1


def names_patients(groups: Sequence[str]) -> bool:
    """Whether a patient ever has two samples; else the source may not have named them."""
    return len({patient_of(one) for one in groups}) < len(groups)


def patient_of(group: str) -> str:
    """'patient/examination' -> 'patient'."""
    return group.partition("/")[0]


def by_name(groups: Sequence[str]) -> Grouping:
    """The source's patients."""
    _, numbers = np.unique([patient_of(one) for one in groups], return_inverse=True)
    count = int(numbers.max()) + 1
    return Grouping(numbers, f"{count} patients as the source names them", named=True)


def by_similarity(inputs: Array) -> Grouping:
    """Near-duplicates together: images (n, C, H, W), or rows (n, columns) that are equal."""
    if inputs.ndim == 2:
        _, numbers = np.unique(inputs, axis=0, return_inverse=True)
        numbers = numbers.reshape(-1)
        told = "the source names no patients: equal rows were grouped"
        return Grouping(numbers, f"{told}, {int(numbers.max()) + 1} groups", named=False)
    small = _small(inputs)
    for threshold in ALIKE:
        numbers = _components(small, threshold)
        if np.bincount(numbers).max() <= max(2, LARGEST * len(inputs)):
            break
    told = (
        f"the source names no patients: {len(inputs)} images were grouped by similarity "
        f"(correlation of {threshold} or more without the mean image), {int(numbers.max()) + 1} "
        f"groups, the largest of {np.bincount(numbers).max()}"
    )
    return Grouping(numbers, told, named=False)


def _small(images: Array) -> Array:
    """(n, C, H, W) -> unit vectors (n, SIDE * SIDE) of the thumbnails less their mean."""
    import torch
    from torch.nn import functional as F

    grey = torch.from_numpy(images).mean(dim=1, keepdim=True)
    flat = F.adaptive_avg_pool2d(grey, SIDE).flatten(1)
    flat = flat - flat.mean(dim=0)
    flat = flat - flat.mean(dim=1, keepdim=True)
    return np.asarray(F.normalize(flat, dim=1).numpy())


def _components(vectors: Array, threshold: float) -> Array:
    """The connected components of what is alike, (n,)."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    rows, columns = [], []
    for start in range(0, len(vectors), BLOCK):
        alike = np.argwhere(vectors[start : start + BLOCK] @ vectors.T >= threshold)
        rows.append(alike[:, 0] + start)
        columns.append(alike[:, 1])
    edges = (np.concatenate(rows), np.concatenate(columns))
    size = len(vectors)
    graph = coo_matrix((np.ones(len(edges[0]), bool), edges), shape=(size, size))
    return np.asarray(connected_components(graph, directed=False)[1])


def hold_out(groups: Array, share: float, most: int, rng: np.random.Generator) -> Array:
    """Which samples (n,) are held out: whole groups, in random order, up to the share."""
    wanted = min(most, max(1, round(share * len(groups))))
    held = np.zeros(len(groups), bool)
    for number in rng.permutation(int(groups.max()) + 1):
        mine = groups == number
        if held.sum() + mine.sum() <= wanted:
            held |= mine
        if held.sum() >= wanted:
            break
    return held
