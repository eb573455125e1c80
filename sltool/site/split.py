"""Which sample is for training, validation or test, and at which site it lies."""

from __future__ import annotations

import string
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, count, product

import numpy as np
from numpy.typing import NDArray

from sltool.errors import UsageError
from sltool.study.schema import SPLITS, Split

# Regression labels are stratified by this many quantiles.
STRATA = 10


@dataclass(frozen=True)
class Assignment:
    """Where each of the N samples goes.

    Attributes:
        split: (N,) index into `SPLITS`.
        site: (N,) index into `sites`.
        sites: the sites' names.
    """

    split: NDArray[np.int64]
    site: NDArray[np.int64]
    sites: list[str]

    def counts(self) -> dict[str, dict[str, int]]:
        """Samples of each split at each site."""
        return {
            name: {
                split: int(((self.site == number) & (self.split == code)).sum())
                for code, split in enumerate(SPLITS)
            }
            for number, name in enumerate(self.sites)
        }


def parse_ratios(text: str) -> list[float]:
    """'7:2:1' -> [7, 2, 1].

    Raises:
        UsageError: it does not parse, or a part is not positive.
    """
    try:
        ratios = [float(part) for part in text.split(":")]
    except ValueError:
        ratios = []
    if not ratios or not all(0 < ratio < float("inf") for ratio in ratios):
        raise UsageError(
            f"the ratios '{text}' do not parse", expected="positive numbers, such as 7:2:1"
        )
    return ratios


def site_names(number: int) -> list[str]:
    """A, B ... Z, AA, AB ..."""
    names = (
        "".join(letters)
        for length in count(1)
        for letters in product(string.ascii_uppercase, repeat=length)
    )
    return [next(names) for _ in range(number)]


def assign(
    labels: NDArray[np.generic],
    groups: Sequence[str],
    official: Sequence[str],
    split: Split,
    ratios: Sequence[float],
    names: list[str],
    seed: int | None,
) -> Assignment:
    """Split first, then share each split over the sites; stratified, and no group is torn.

    Args:
        seed: None: draw from the system's entropy.

    Raises:
        UsageError: a site would have no training sample.
    """
    rng = np.random.default_rng(seed)
    patients = np.unique(list(groups), return_inverse=True)[1]
    strata = _strata(labels)
    shares = [1 - split.validation - split.test, split.validation, split.test]
    if shares[0] <= 0:
        raise UsageError("split.validation and split.test leave nothing for training")
    if split.official and any(official):
        splits = _official(official, patients, strata, shares, rng)
    else:
        splits = _share_out(patients, strata, shares, rng)
    sites = np.zeros(len(labels), dtype=np.int64)
    for code in range(len(SPLITS)):
        rows = np.flatnonzero(splits == code)
        sites[rows] = _share_out(patients[rows], strata[rows], list(ratios), rng)
    result = Assignment(splits, sites, names)
    for name, counts in result.counts().items():
        if counts["train"] == 0:
            raise UsageError(
                f"site {name} would have no training sample",
                expected=f"a share of at least one patient; there are {patients.max() + 1}",
                hint="give fewer sites or other --ratios",
            )
    return result


def _strata(labels: NDArray[np.generic]) -> NDArray[np.int64]:
    if np.issubdtype(labels.dtype, np.integer):
        return np.asarray(np.unique(labels, return_inverse=True)[1])
    edges = np.quantile(labels.astype(float), np.linspace(0, 1, STRATA + 1)[1:-1])
    return np.searchsorted(edges, labels.astype(float)).astype(np.int64)


def _share_out(
    groups: NDArray[np.int64],
    strata: NDArray[np.int64],
    shares: list[float],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Draw a part for every group; returns each sample's part.

    Every part has seats of each stratum, in proportion to its share. The groups, in random order,
    draw a part with a chance that is the number of free seats there for their samples. For groups
    of one sample this is a stratified draw without replacement, exact to a sample.
    """
    if len(groups) == 0:
        return np.zeros(0, dtype=np.int64)
    _, groups = np.unique(groups, return_inverse=True)
    table = np.zeros((groups.max() + 1, strata.max() + 1))
    np.add.at(table, (groups, strata), 1)
    # Plain lists: arrays of a few numbers would cost several times as much.
    free = _seats(table.sum(axis=0), np.asarray(shares) / sum(shares)).tolist()
    samples = [[(code, size) for code, size in enumerate(row) if size] for row in table.tolist()]
    part = np.zeros(len(table), dtype=np.int64)
    draws = rng.random(len(table)).tolist()
    for group in rng.permutation(len(table)).tolist():
        own = samples[group]
        chances = [sum(max(seats[code], 0) * size for code, size in own) for seats in free]
        if not any(chances):
            chances = [max(sum(seats), 1e-9) for seats in free]
        total = list(accumulate(chances))
        chosen = bisect_right(total, draws[group] * total[-1])
        part[group] = chosen
        for code, size in own:
            free[chosen][code] -= size
    return part[groups]


def _seats(sizes: NDArray[np.float64], shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Whole seats (parts, strata) that add up to the strata's sizes and nearly to each share.

    Rounding runs over the strata one after the other, so a small part is not rounded to nothing in
    every stratum.
    """
    ideal = np.outer(shares, sizes).cumsum(axis=1)
    edges = np.rint(ideal.cumsum(axis=0))
    by_part = np.diff(edges, axis=0, prepend=0)
    return np.diff(by_part, axis=1, prepend=0)


def _official(
    official: Sequence[str],
    patients: NDArray[np.int64],
    strata: NDArray[np.int64],
    shares: list[float],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """The source's own lists; a part that they lack is drawn from their training samples.

    A patient in two lists goes as a whole to the one that is further from training.
    """
    splits = np.array([SPLITS.index(name) if name else 0 for name in official])
    furthest = np.zeros(patients.max() + 1, dtype=np.int64)
    np.maximum.at(furthest, patients, splits)
    splits = furthest[patients]
    for code in (1, 2):
        if not (splits == code).any() and shares[code] > 0:
            rows = np.flatnonzero(splits == 0)
            drawn = _share_out(patients[rows], strata[rows], [1 - shares[code], shares[code]], rng)
            splits[rows[drawn == 1]] = code
    return splits
