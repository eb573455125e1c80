"""Assign samples to the splits (training, validation, test) and to the sites."""

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
    """The split and the site of each of N samples.

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
                split: int(((self.site == site_index) & (self.split == code)).sum())
                for code, split in enumerate(SPLITS)
            }
            for site_index, name in enumerate(self.sites)
        }


def parse_ratios(text: str) -> list[float]:
    """'7:2:1' -> [7, 2, 1].

    Raises:
        UsageError: the text does not parse, or a ratio is not positive.
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


def site_names(sites: int) -> list[str]:
    """Names for so many simulated sites: A, B ... Z, AA, AB ..."""
    names = (
        "".join(letters)
        for length in count(1)
        for letters in product(string.ascii_uppercase, repeat=length)
    )
    return [next(names) for _ in range(sites)]


def assign(
    labels: NDArray[np.generic],
    groups: Sequence[str],
    official: Sequence[str],
    split: Split,
    ratios: Sequence[float],
    names: list[str],
    seed: int | None,
    known: NDArray[np.int64] | None = None,
) -> Assignment:
    """Draw the splits, then distribute each split over the sites, stratified by label.

    All samples of a patient go to the same split and the same site.

    Args:
        labels: (N,) class indices or regression targets.
        groups: N patients.
        official: N splits from the source's own lists, or ''.
        ratios: each site's share.
        names: the sites' names.
        seed: None: draw from the system's entropy.
        known: (N,) the split that a sample's patient already has, as an index into `SPLITS`, or -1.
            The others are drawn so that all samples together have the shares of `split`.

    Raises:
        UsageError: a site would have no training sample.
    """
    rng = np.random.default_rng(seed)
    patients = np.unique(list(groups), return_inverse=True)[1]
    strata = _strata(labels)
    shares = [1 - split.validation - split.test, split.validation, split.test]
    if shares[0] <= 0:
        raise UsageError("split.validation and split.test leave nothing for training")
    known = np.full(len(labels), -1) if known is None else known
    if split.official and any(official):
        splits = _official_splits(official, patients, strata, shares, rng, known)
    else:
        splits = _draw_parts(patients, strata, shares, rng, known)
    sites = np.zeros(len(labels), dtype=np.int64)
    for code in range(len(SPLITS)):
        rows = np.flatnonzero(splits == code)
        sites[rows] = _draw_parts(patients[rows], strata[rows], list(ratios), rng)
    result = Assignment(splits, sites, names)
    for name, counts in result.counts().items():
        if counts["train"] == 0:
            raise UsageError(
                f"site {name} would have no training sample",
                expected=f"a share of at least one patient; there are {patients.max() + 1}",
                hint="use fewer sites or other --ratios",
            )
    return result


def _strata(labels: NDArray[np.generic]) -> NDArray[np.int64]:
    """(N,) stratum of each sample: its class, or the quantile of its regression target."""
    if np.issubdtype(labels.dtype, np.integer):
        return np.asarray(np.unique(labels, return_inverse=True)[1])
    edges = np.quantile(labels.astype(float), np.linspace(0, 1, STRATA + 1)[1:-1])
    return np.searchsorted(edges, labels.astype(float)).astype(np.int64)


def _draw_parts(
    groups: NDArray[np.int64],
    strata: NDArray[np.int64],
    shares: list[float],
    rng: np.random.Generator,
    known: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Draw a part (split or site) for every group; returns the index of each sample's part.

    Groups that have a part already (`known`, -1 for the others) keep it.

    Every part has seats for each stratum, in proportion to its share. The groups, in random order,
    draw a part with a probability in proportion to the free seats that it has for their samples.
    If each group is a single sample, this is stratified sampling without replacement, and the parts
    have their exact sizes.
    """
    if len(groups) == 0:
        return np.zeros(0, dtype=np.int64)
    _, groups = np.unique(groups, return_inverse=True)
    table = np.zeros((groups.max() + 1, strata.max() + 1))
    np.add.at(table, (groups, strata), 1)
    # Plain lists: numpy is several times slower on arrays of a few elements.
    part = _known_parts(groups, known)
    free = _free_seats(table, np.array(part), np.asarray(shares) / sum(shares)).tolist()
    samples = [[(code, size) for code, size in enumerate(row) if size] for row in table.tolist()]
    draws = rng.random(len(table)).tolist()
    for group in rng.permutation(len(table)).tolist():
        if part[group] >= 0:
            continue
        sizes = samples[group]
        weights = [sum(max(seats[code], 0) * size for code, size in sizes) for seats in free]
        if not any(weights):
            weights = [max(sum(seats), 1e-9) for seats in free]
        cumulative = list(accumulate(weights))
        chosen = bisect_right(cumulative, draws[group] * cumulative[-1])
        part[group] = chosen
        for code, size in sizes:
            free[chosen][code] -= size
    return np.array(part, np.int64)[groups]


def _free_seats(
    table: NDArray[np.float64], part: NDArray[np.int64], shares: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Seats (parts, strata) for the groups without a part, so that each part gets its share of all.

    Args:
        table: (groups, strata) samples.
        part: (groups,) the part that a group has already, or -1.
    """
    taken = np.array([table[part == index].sum() for index in range(len(shares))])
    missing = np.maximum(shares * table.sum() - taken, 0)
    # Without groups that have a part the shares stay exactly as they are, and so does the draw.
    if taken.any() and missing.any():
        shares = missing / missing.sum()
    return _seats(table[part < 0].sum(axis=0), shares)


def _known_parts(groups: NDArray[np.int64], known: NDArray[np.int64] | None) -> list[int]:
    """The part that each group has already, or -1."""
    parts = np.full(groups.max() + 1, -1)
    if known is not None:
        np.maximum.at(parts, groups, known)
    return [int(part) for part in parts]


def _seats(sizes: NDArray[np.float64], shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Integer seats (parts, strata): exact sums for the strata, nearly exact ones for the shares.

    The rounding error is carried from stratum to stratum, so that a small part is not rounded to 0
    in every stratum.
    """
    ideal = np.outer(shares, sizes).cumsum(axis=1)
    edges = np.rint(ideal.cumsum(axis=0))
    by_part = np.diff(edges, axis=0, prepend=0)
    return np.diff(by_part, axis=1, prepend=0)


def _official_splits(
    official: Sequence[str],
    patients: NDArray[np.int64],
    strata: NDArray[np.int64],
    shares: list[float],
    rng: np.random.Generator,
    known: NDArray[np.int64],
) -> NDArray[np.int64]:
    """The splits of the source's own lists; one that they lack is drawn from the training samples.

    All samples of a patient in several lists go to the test split if one of the lists is the test
    list, else to validation.
    """
    splits = np.array([SPLITS.index(name) if name else 0 for name in official])
    patient_split = np.zeros(patients.max() + 1, dtype=np.int64)
    np.maximum.at(patient_split, patients, splits)
    splits = np.where(known >= 0, known, patient_split[patients])
    for code in (1, 2):
        if not (splits == code).any() and shares[code] > 0:
            rows = np.flatnonzero((splits == 0) & (known < 0))
            drawn = _draw_parts(patients[rows], strata[rows], [1 - shares[code], shares[code]], rng)
            splits[rows[drawn == 1]] = code
    return splits
