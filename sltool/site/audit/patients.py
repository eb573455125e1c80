"""Grouping of samples by patient: no attacker may learn from a patient who is attacked.

If a source names no patients, two slices of a patient could be both learned from and attacked, and
a decoder that memorises one would "reconstruct" the other. So near-duplicates are grouped first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sltool.site.private_file import PrivateFile
from sltool.wording import plural

Array = NDArray[Any]

# Correlations, without the mean image, from which two images count as near-duplicates. The next
# value is tried if chains of similar images make a group larger than LARGEST of the samples.
ALIKE = (0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.999, 0.9999)
LARGEST = 0.1
SIDE = 16
BLOCK = 1024


@dataclass(frozen=True)
class Grouping:
    """Groups of samples that are either all attacked or all learned from.

    Attributes:
        groups: (n,) group indices from 0.
        description: how the groups were made, for the report.
        named: whether they are the source's own patients.
    """

    groups: Array
    description: str
    named: bool

    @property
    def count(self) -> int:
        return int(self.groups.max()) + 1


def names_patients(private: PrivateFile) -> bool:
    """Whether the source names the patients of a site's `private.h5`.

    A file of an earlier version does not say so: there a patient with two samples shows it.
    """
    stored = private.names_patients
    if stored is not None:
        return stored
    groups = private.text("group_pseudonyms")
    return len({patient_of(group) for group in groups}) < len(groups)


def patient_of(group: str) -> str:
    """'patient/examination' -> 'patient'."""
    return group.partition("/")[0]


def by_name(groups: Sequence[str]) -> Grouping:
    """The source's patients."""
    _, patients = np.unique([patient_of(group) for group in groups], return_inverse=True)
    count = int(patients.max()) + 1
    return Grouping(patients, f"{plural(count, 'patient')} as the source names them", named=True)


def by_similarity(inputs: Array) -> Grouping:
    """Group near-duplicate images (n, C, H, W), or equal rows (n, columns)."""
    if inputs.ndim == 2:
        _, groups = np.unique(inputs, axis=0, return_inverse=True)
        groups = groups.reshape(-1)
        description = "the source names no patients: equal rows were grouped"
        return Grouping(
            groups, f"{description}, {plural(int(groups.max()) + 1, 'group')}", named=False
        )
    thumbnails = _thumbnails(inputs)
    for threshold in ALIKE:
        groups = _components(thumbnails, threshold)
        if np.bincount(groups).max() <= max(2, LARGEST * len(inputs)):
            break
    description = (
        f"the source names no patients: {len(inputs)} images were grouped by similarity "
        f"(correlation of {threshold} or more without the mean image), {int(groups.max()) + 1} "
        f"groups, the largest of {np.bincount(groups).max()}"
    )
    return Grouping(groups, description, named=False)


def _thumbnails(images: Array) -> Array:
    """(n, C, H, W) -> unit vectors (n, SIDE * SIDE) of the thumbnails minus their mean."""
    import torch
    from torch.nn import functional as F

    grey = torch.from_numpy(images).mean(dim=1, keepdim=True)
    flat = F.adaptive_avg_pool2d(grey, SIDE).flatten(1)
    flat = flat - flat.mean(dim=0)
    flat = flat - flat.mean(dim=1, keepdim=True)
    return np.asarray(F.normalize(flat, dim=1).numpy())


def _components(vectors: Array, threshold: float) -> Array:
    """(n,) the connected components of the graph of similar vectors."""
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
    """(n,) True for the samples that are held out: whole groups, at random, up to the share."""
    target = min(most, max(1, round(share * len(groups))))
    held_out = np.zeros(len(groups), bool)
    for group in rng.permutation(int(groups.max()) + 1):
        members = groups == group
        if held_out.sum() + members.sum() <= target:
            held_out |= members
        if held_out.sum() >= target:
            break
    return held_out
