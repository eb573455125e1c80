"""Each site's figures with bootstrap intervals, and the site that a run serves worst.

Intervals are those of `statistics`. Fewer than five patients have none: from four, only 35
different resamples can be drawn, too few to say where 2.5 % of them lie.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sltool.experiments.statistics import Interval, Table, intervals
from sltool.registry import metrics
from sltool.server.evaluation.evaluate import Evaluation, Scored
from sltool.wording import plural

FEWEST_PATIENTS = 5


@dataclass(frozen=True)
class SiteFigure:
    """A metric at one site.

    Attributes:
        value: None if it is not defined for the site's samples.
        low, high: its 95 % bootstrap interval; None if there is none.
        reason: why there is no value or no interval, or ''.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Worst:
    """The site with the worst figure among those with an interval.

    Attributes:
        site: None where fewer than two sites have an interval; then `reason` says so.
        all: the figure of all samples.
        apart: whether `all` is outside the site's interval.
    """

    site: str | None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    all: float | None = None
    apart: bool = False
    reason: str = ""


@dataclass(frozen=True)
class FiguresBySite:
    """The figures of all samples and of each site, by metric; and the worst-served site of each."""

    all: dict[str, SiteFigure]
    sites: dict[str, dict[str, SiteFigure]]
    worst: dict[str, Worst]

    def intervals_document(self, site: str) -> dict[str, Any]:
        """A site's intervals as JSON: metric -> low, high and reason."""
        return {
            name: {"low": figure.low, "high": figure.high, "reason": figure.reason}
            for name, figure in self.sites[site].items()
        }

    def worst_document(self) -> dict[str, Any]:
        """The worst-served sites as JSON: metric -> the fields of `Worst`."""
        return {name: asdict(worst) for name, worst in self.worst.items()}


def figures_by_site(evaluation: Evaluation, names: Sequence[str]) -> FiguresBySite:
    """The named metrics with their intervals.

    Raises:
        BadDataError: a plug-in metric fails.
    """
    everyone = _figures(evaluation.scored, evaluation.metrics, names, evaluation.notes)
    sites = {
        site: _figures(evaluation.scored_by_site[site], found["metrics"], names, found["notes"])
        for site, found in evaluation.by_site.items()
    }
    ranked = [n for n in names if metrics.entry(n).facts.get("better") in ("higher", "lower")]
    return FiguresBySite(everyone, sites, {n: _worst(n, everyone, sites) for n in ranked})


def _figures(
    scored: Scored, values: dict[str, float | None], names: Sequence[str], notes: Sequence[str]
) -> dict[str, SiteFigure]:
    """The figures of these samples; `notes` say why those without a value are not defined."""
    figures = {name: SiteFigure(None, reason="; ".join(notes)) for name in names}
    defined = {name: value for name in names if (value := values[name]) is not None}
    patients = len(np.unique(scored.patients))
    if patients < FEWEST_PATIENTS:
        reason = f"{plural(patients, 'patient')}: an interval needs {FEWEST_PATIENTS}"
        return figures | {name: SiteFigure(value, reason=reason) for name, value in defined.items()}
    table = Table(scored.y_true, scored.y_pred, scored.patients)
    found = intervals([table], list(defined))
    return figures | {name: _figure(value, found[name]) for name, value in defined.items()}


def _figure(value: float, found: Interval) -> SiteFigure:
    if math.isnan(found.low) or math.isnan(found.high):
        count = f"{found.undefined} of {len(found.draws)}"
        return SiteFigure(value, reason=f"no interval: it is not defined in {count} resamples")
    same = "all resamples have the same value, so that the interval is too narrow"
    return SiteFigure(value, found.low, found.high, same if found.low == found.high else "")


def _worst(
    name: str, everyone: dict[str, SiteFigure], sites: dict[str, dict[str, SiteFigure]]
) -> Worst:
    overall = everyone[name].value
    known = {
        site: by_name[name] for site, by_name in sites.items() if by_name[name].low is not None
    }
    if len(known) < 2:
        return Worst(
            None,
            all=overall,
            reason=f"{len(known)} of {len(sites)} sites have enough samples for an interval of "
            f"{name}",
        )
    sign = 1 if metrics.entry(name).facts["better"] == "higher" else -1
    site = min(known, key=lambda site: sign * (known[site].value or 0.0))
    figure = known[site]
    low, high = figure.low or 0.0, figure.high or 0.0
    apart = overall is not None and not low <= overall <= high
    return Worst(site, figure.value, figure.low, figure.high, overall, apart)
