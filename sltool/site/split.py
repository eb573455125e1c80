"""Assign samples to the splits (training, validation, test) and to the sites."""

from __future__ import annotations

import math
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
# Up to so many sites are called A, B, C ...
LETTERS = len(string.ascii_uppercase)
# How often random sites are drawn again if one of them is left without a training sample.
ATTEMPTS = 20
# The sizes of sites alone are drawn quickly, and need many attempts if they differ strongly.
SIZE_ATTEMPTS = 10_000
# A site takes its samples in so many portions, in turns, so that none is the last to choose.
PORTIONS = 50


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


def numbered_names(sites: int) -> list[str]:
    """Names for so many simulated sites of equal shares: A, B ..., or from 27 on S001, S002 ..."""
    if sites <= LETTERS:
        return site_names(sites)
    digits = max(3, len(str(sites)))
    return [f"S{index:0{digits}}" for index in range(1, sites + 1)]


def site_names(sites: int) -> list[str]:
    """Names for so many simulated sites: A, B ... Z, AA, AB ..."""
    names = (
        "".join(letters)
        for length in count(1)
        for letters in product(string.ascii_uppercase, repeat=length)
    )
    return [next(names) for _ in range(sites)]


@dataclass(frozen=True)
class Skew:
    """How strongly simulated sites differ; None: not at all.

    Attributes:
        labels: alpha of Hsu et al., "Measuring the Effects of Non-Identical Data Distribution for
            Federated Visual Classification", arXiv 1909.06335, 2019: the shares of the classes at a
            site are drawn from Dir(alpha p), p their shares among all samples. Regression targets
            count as classes by their quantile.
        sizes: alpha of Li et al., "Federated Learning on Non-IID Data Silos", ICDE 2022: the
            sites' sizes are drawn from Dir(alpha, ..., alpha).
    """

    labels: float | None = None
    sizes: float | None = None


NO_SKEW = Skew()


def assign(
    labels: NDArray[np.generic],
    groups: Sequence[str],
    official: Sequence[str],
    split: Split,
    ratios: Sequence[float],
    names: list[str],
    seed: int | None,
    skew: Skew = NO_SKEW,
    known: NDArray[np.int64] | None = None,
) -> Assignment:
    """Draw the splits, then distribute each split over the sites, stratified by label.

    All samples of a patient go to the same split and the same site. The splits do not depend on
    the sites, so the test samples of all sites together are the same for any `ratios` and `skew`.

    Args:
        labels: (N,) class indices or regression targets.
        groups: N patients.
        official: N splits from the source's own lists, or ''.
        ratios: each site's share; not used with `skew.sizes`.
        names: the sites' names.
        seed: None: draw from the system's entropy.
        known: (N,) the split that a sample's patient already has, as an index into `SPLITS`, or -1.
            The others are drawn so that all samples together have the shares of `split`.

    Raises:
        UsageError: a site would have no training sample, however often the sites are drawn.
    """
    rng = np.random.default_rng(seed)
    patients = np.unique(list(groups), return_inverse=True)[1]
    strata = _strata(labels)
    splits = _splits(patients, strata, official, split, rng, known)
    training = np.bincount(strata[splits == 0], minlength=strata.max() + 1)
    result = Assignment(splits, np.zeros(len(labels), dtype=np.int64), names)
    for _ in range(ATTEMPTS):
        shares = _site_shares(training, ratios, names, skew, rng)
        for code in range(len(SPLITS)):
            rows = np.flatnonzero(splits == code)
            result.site[rows] = _draw_parts(patients[rows], strata[rows], shares, rng)
        if not _without_training(result):
            return result
    raise UsageError(
        f"site {_without_training(result)[0]} would have no training sample",
        expected=f"a share of at least one patient; there are {patients.max() + 1}",
        hint="use fewer sites, other --ratios, or a higher --skew",
    )


def assign_by(
    labels: NDArray[np.generic],
    groups: Sequence[str],
    official: Sequence[str],
    split: Split,
    site: NDArray[np.int64],
    names: list[str],
    seed: int | None,
) -> Assignment:
    """Draw the splits within each site, as hospitals do; the other arguments are `assign`'s.

    Args:
        site: (N,) index of each sample's site; all samples of a patient have the same.

    Raises:
        UsageError: a site would have no training sample.
    """
    rng = np.random.default_rng(seed)
    patients = np.unique(list(groups), return_inverse=True)[1]
    strata = _strata(labels)
    splits = np.zeros(len(labels), dtype=np.int64)
    if split.official and any(official):
        splits = _splits(patients, strata, official, split, rng)
    else:
        for index in range(len(names)):
            rows = np.flatnonzero(site == index)
            splits[rows] = _splits(patients[rows], strata[rows], (), split, rng)
    result = Assignment(splits, site, names)
    if empty := _without_training(result):
        counts = result.counts()
        listed = ", ".join(f"{name} ({sum(counts[name].values())})" for name in empty)
        raise UsageError(
            f"these sites would have no training sample: {listed}; in brackets, their samples",
            expected="sites that each have a patient for training",
            hint="merge these values in the source; if they have samples, but only in the source's "
            "validation or test list, set split.official: false in study.yaml",
        )
    return result


def _without_training(assignment: Assignment) -> list[str]:
    """The names of the sites without a training sample."""
    present = set(assignment.site[assignment.split == 0].tolist())
    return [name for index, name in enumerate(assignment.sites) if index not in present]


def _splits(
    patients: NDArray[np.int64],
    strata: NDArray[np.int64],
    official: Sequence[str],
    split: Split,
    rng: np.random.Generator,
    known: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """(N,) the split of each sample, an index into `SPLITS`."""
    shares = [1 - split.validation - split.test, split.validation, split.test]
    if shares[0] <= 0:
        raise UsageError("split.validation and split.test leave nothing for training")
    known = np.full(len(strata), -1) if known is None else known
    if split.official and any(official):
        return _official_splits(official, patients, strata, shares, rng, known)
    return _draw_parts(patients, strata, shares, rng, known)


def _site_shares(
    training: NDArray[np.int64],
    ratios: Sequence[float],
    names: list[str],
    skew: Skew,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """(sites,) or (sites, strata): which share of the samples, or of each stratum, a site gets.

    Args:
        training: (strata,) numbers of training samples.
    """
    shares = np.asarray(ratios, dtype=float)
    if skew.sizes is not None:
        shares = _skewed_sizes(len(names), int(training.sum()), skew.sizes, rng)
    if skew.labels is None:
        return shares
    return _skewed_labels(shares / shares.sum(), training.astype(float), skew.labels, rng)


def _skewed_sizes(
    sites: int, samples: int, alpha: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """(sites,) shares from Dir(alpha, ...), drawn until each is at least one of `samples`.

    Raises:
        UsageError: no draw was such.
    """
    for _ in range(SIZE_ATTEMPTS):
        shares = rng.dirichlet(np.full(sites, alpha))
        if (shares * samples >= 1).all():
            return np.asarray(shares)
    raise UsageError(
        f"{SIZE_ATTEMPTS} draws of the sizes of {sites} sites with --quantity-skew {alpha:g} all "
        "left a site without a training sample",
        expected=f"at least one of {samples} training samples at each site",
        hint="use fewer --sites or a higher --quantity-skew",
    )


def _skewed_labels(
    shares: NDArray[np.float64],
    training: NDArray[np.float64],
    alpha: float,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """(sites, strata) shares of each stratum, the sites' sizes being as `shares` says.

    Each site draws its wish for the strata from Dir(alpha p). The sites then take turns; where a
    stratum is used up, a site takes more of the others that it wishes (Hsu et al., section 3).
    """
    present = np.flatnonzero(training)
    left = training[present]
    wishes = _dirichlet(alpha * left / left.sum(), len(shares), rng)
    taken = np.zeros((len(shares), len(present)))
    portions = shares * left.sum() / PORTIONS
    for _ in range(PORTIONS):
        for site in rng.permutation(len(shares)):
            taken[site] += _take(portions[site], wishes[site], left)
    result = np.tile(shares[:, None], len(training))
    result[:, present] = taken / taken.sum(axis=0)
    return result


def expected_training(official: Sequence[str], split: Split) -> int:
    """About how many of N samples `assign` gives to training, at all sites together.

    Args:
        official: as for `assign`.
    """
    shares = {"validation": split.validation, "test": split.test}
    if split.official and any(official):
        listed = len(official) - sum(name in shares for name in official)
        drawn = [share for name, share in shares.items() if name not in official]
        return max(1, round(listed * math.prod(1 - share for share in drawn)))
    return max(1, round(len(official) * (1 - sum(shares.values()))))


def _dirichlet(
    alphas: NDArray[np.float64], size: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """(size, strata) draws; for parameters so small that a draw underflows, its limit."""
    with np.errstate(all="ignore"):
        drawn = rng.dirichlet(alphas, size)
    single = np.eye(len(alphas))[rng.choice(len(alphas), size, p=alphas / alphas.sum())]
    sound = np.isclose(drawn.sum(axis=1, keepdims=True), 1)
    return np.where(sound, drawn, single)


def _take(
    wanted: float, wish: NDArray[np.float64], left: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Take `wanted` samples from `left` (strata,), which is reduced; returns (strata,) the taken.

    Args:
        wish: (strata,) shares; strata without any are taken when those that have one are used up.
    """
    taken = np.zeros_like(left)
    # Each round satisfies the site, or uses a stratum up.
    for _ in range(len(left) + 1):
        weights = np.where(left > 0, wish, 0)
        if weights.sum() == 0:
            weights = left
        if weights.sum() == 0 or wanted <= 0:
            break
        part = np.minimum(wanted * weights / weights.sum(), left)
        left -= part
        taken += part
        wanted -= part.sum()
    return taken


def _strata(labels: NDArray[np.generic]) -> NDArray[np.int64]:
    """(N,) stratum of each sample: its class, or the quantile of its regression target."""
    if np.issubdtype(labels.dtype, np.integer):
        return np.asarray(np.unique(labels, return_inverse=True)[1])
    edges = np.quantile(labels.astype(float), np.linspace(0, 1, STRATA + 1)[1:-1])
    return np.searchsorted(edges, labels.astype(float)).astype(np.int64)


def _draw_parts(
    groups: NDArray[np.int64],
    strata: NDArray[np.int64],
    shares: Sequence[float] | NDArray[np.float64],
    rng: np.random.Generator,
    known: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Draw a part (split or site) for every group; returns the index of each sample's part.

    Groups that have a part already (`known`, -1 for the others) keep it.

    Every part has seats for each stratum, in proportion to its share. The groups, in random order,
    draw a part with a probability in proportion to the free seats that it has for their samples.
    If each group is a single sample, this is stratified sampling without replacement, and the parts
    have their exact sizes.

    Args:
        shares: (parts,), or (parts, strata) where the parts differ in the shares of the strata.
    """
    if len(groups) == 0:
        return np.zeros(0, dtype=np.int64)
    _, groups = np.unique(groups, return_inverse=True)
    table = np.zeros((groups.max() + 1, strata.max() + 1))
    np.add.at(table, (groups, strata), 1)
    # Plain lists: numpy is several times slower on arrays of a few elements.
    part = _known_parts(groups, known)
    free = _free_seats(table, np.array(part), np.asarray(shares, dtype=float)).tolist()
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
        shares: as for `_draw_parts`; (parts,) if a group has a part.
    """
    taken = np.array([table[part == index].sum() for index in range(len(shares))])
    # Without groups that have a part the shares stay exactly as they are, and so does the draw.
    if taken.any():
        missing = np.maximum(shares / shares.sum() * table.sum() - taken, 0)
        shares = missing if missing.any() else shares
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

    Args:
        shares: as for `_draw_parts`; of more strata than there are sizes, the first ones count.
    """
    by_stratum = shares[:, None] if shares.ndim == 1 else shares[:, : len(sizes)]
    ideal = (by_stratum / by_stratum.sum(axis=0) * sizes).cumsum(axis=1)
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
