"""Intervals for sensitivity, specificity and predictive values, also near 0 and 1.

A sensitivity that was chosen to be high is close to 1, where draws of a bootstrap are all the same;
so the intervals here are closed forms. Rows of a patient are not independent: the number of rows is
divided by the design effect, the ratio of the variance between patients to that of independent
rows (Korn and Graubard, "Confidence intervals for proportions with small expected number of
positive counts estimated from survey data", 1998). Where all rows agree, that ratio is unknown, and
each patient counts once.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, hypot, inf, log, sqrt

import numpy as np
from numpy.typing import NDArray

# The 97.5 % quantile of the standard normal distribution.
Z = 1.959963984540054


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval; None where it is not defined."""

    value: float | None
    low: float | None
    high: float | None


UNDEFINED = Estimate(None, None, None)


@dataclass(frozen=True)
class Bounds(Estimate):
    """A figure that is defined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Proportion:
    """`share` of rows that were right, and the number of independent rows that they are worth."""

    share: float
    effective: float

    @classmethod
    def of(cls, right: NDArray[np.bool_], patients: NDArray[np.int64]) -> Proportion | None:
        """The proportion of (N,) rows; None without rows.

        Args:
            patients: (N,) index of each row's patient.
        """
        rows = len(right)
        if not rows:
            return None
        members = np.unique(patients, return_inverse=True)[1]
        counts, hits = np.bincount(members), np.bincount(members, weights=right)
        share, clusters = float(right.mean()), len(counts)
        if share in (0, 1) or clusters == 1:
            return cls(share, clusters)
        independent = share * (1 - share) / (rows - 1)
        residuals = ((hits - share * counts) ** 2).sum()
        between = clusters / (clusters - 1) * residuals / rows**2
        return cls(share, rows / max(1.0, float(between / independent)))

    def estimate(self) -> Bounds:
        """With the score interval of Wilson, "Probable inference", 1927."""
        spread = Z**2 / self.effective
        centre = (self.share + spread / 2) / (1 + spread)
        half = (
            Z / (1 + spread) * sqrt((self.share * (1 - self.share) + spread / 4) / self.effective)
        )
        # Rounding must not separate the bounds from a share of 0 or 1.
        low = max(0.0, centre - half) if self.share else 0.0
        high = min(1.0, centre + half) if self.share < 1 else 1.0
        return Bounds(self.share, low, high)


def predictive_values(
    sensitivity: Proportion | None, specificity: Proportion | None, prevalence: float
) -> tuple[Estimate, Estimate]:
    """Positive and negative predictive value in a population with that share of positives.

    Both follow from a likelihood ratio, whose interval is that of Zou and Donner, "Construction of
    confidence limits about effect measures: a general approach", 2008, from the proportions' own.
    """
    if sensitivity is None or specificity is None or not 0 < prevalence < 1:
        return UNDEFINED, UNDEFINED
    odds = prevalence / (1 - prevalence)
    right, wrong = sensitivity.estimate(), specificity.estimate()
    return (
        _of_ratio(right, _complement(wrong), odds),
        _of_ratio(wrong, _complement(right), 1 / odds),
    )


def _complement(figure: Bounds) -> Bounds:
    return Bounds(1 - figure.value, 1 - figure.high, 1 - figure.low)


def _of_ratio(right: Bounds, wrong: Bounds, odds: float) -> Estimate:
    """The share `right odds / (right odds + wrong)`."""
    if right.value == wrong.value == 0:
        return UNDEFINED
    low, high = 0.0, inf
    if right.value:
        # With no error at all the limit of the expression below is right / upper bound of wrong.
        low = log(right.value / (wrong.value or wrong.high))
        if wrong.value:
            low -= hypot(log(right.value / right.low), log(wrong.high / wrong.value))
        low = exp(low)
    if wrong.value:
        high = log((right.value or right.high) / wrong.value)
        if right.value:
            high += hypot(log(right.high / right.value), log(wrong.value / wrong.low))
        high = exp(high)
    ratio = right.value / wrong.value if wrong.value else inf
    return Estimate(*(1 / (1 + 1 / (each * odds)) if each else 0.0 for each in (ratio, low, high)))
