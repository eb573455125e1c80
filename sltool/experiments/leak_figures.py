"""Accuracy against what an attacker gets: the picture and the front of `reproduce privacy`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sltool.experiments.arm_files import CellAudit
from sltool.experiments.figures import metric_label, metric_name
from sltool.experiments.privacy_layers import Layer
from sltool.experiments.results import ArmResult, Results
from sltool.experiments.style import MARKERS, Picture, Sheet, colour
from sltool.experiments.sweep import LAYER
from sltool.registry import metrics
from sltool.shell import command_line

LABELS = {"leak": "leak L", "linkage_top1": "linkage, top 1"}


@dataclass(frozen=True)
class Point:
    """A privacy layer: its arm's results, and the figures of its audits.

    Attributes:
        audits: of every seed.
        on_front: no other layer is at least as good in the metric and leaks less.
    """

    row: ArmResult
    audits: list[CellAudit]
    on_front: bool = False

    @property
    def name(self) -> str:
        """'dp-8', or the arm outside a sweep."""
        return ", ".join(self.row.sweep.values()) or self.row.arm

    def values(self, figure: str) -> list[float]:
        """A figure of the audit, of every seed that has it."""
        return [audit["figures"][figure] for audit in self.audits if figure in audit["figures"]]

    def mean(self, figure: str) -> float:
        """Its mean over the seeds; NaN if none has it."""
        values = self.values(figure)
        return float(np.mean(values)) if values else float("nan")

    @property
    def attackers(self) -> str:
        """The strongest attackers of the seeds."""
        return ", ".join(dict.fromkeys(audit["attack"] for audit in self.audits))


def points(results: Results) -> list[Point]:
    """The audited rows, with the front by the headline metric and the leak."""
    found = [
        Point(row, [run.audit for run in row.finished if run.audit is not None])
        for row in results.rows
        if any(run.audit for run in row.finished)
    ]
    sign = _sign(results)
    places = [
        (sign * point.row.figures[results.metrics[0]].mean, point.mean("leak")) for point in found
    ]
    return [
        Point(point.row, point.audits, not any(_dominates(other, place) for other in places))
        for point, place in zip(found, places, strict=True)
    ]


def front_settings(results: Results, layers: Mapping[str, Layer]) -> dict[str, str]:
    """'on the front: dp-8' -> what `prepare --set` takes for it."""
    front = [point.row.sweep.get(LAYER, "") for point in points(results) if point.on_front]
    return {
        f"on the front: {name}": command_line(layers[name].settings()) or "the recipe's settings"
        for name in dict.fromkeys(front)
        if name in layers
    }


def _sign(results: Results) -> int:
    """1 if a higher value of the headline metric is better, else -1."""
    return 1 if metrics.entry(results.metrics[0]).facts["better"] == "higher" else -1


def _dominates(other: tuple[float, float], place: tuple[float, float]) -> bool:
    """Whether `other` (score, leak) is at least as good in both, and better in one."""
    return other != place and other[0] >= place[0] and other[1] <= place[1]


def leaks(results: Results, sheet: Sheet) -> Picture | None:
    """The headline metric against the leak, and against linkage; None if nothing was audited."""
    found = points(results)
    if not found:
        return None
    shown = [name for name in LABELS if any(point.values(name) for point in found)]
    figure, axes = sheet.figure(9, 4.2, columns=len(shown))
    for axis, name in zip(axes[0], shown, strict=True):
        _panel(axis, found, name, results)
        axis.set_xlabel(LABELS[name])
        axis.set_ylabel(metric_label(results.metrics[0], results))
    sheet.legend_below(figure, axes[0][0], 5)
    sheet.save(figure, "leaks")
    front = ", ".join(point.name for point in found if point.on_front)
    metric = metric_name(results.metrics[0])
    listed = "; ".join(
        f"{point.name}: L {point.mean('leak'):.2f}, "
        f"{metric} {point.row.figures[results.metrics[0]].mean:.4g}"
        for point in found
    )
    return Picture(
        "leaks",
        f"{metric} against what an attacker gets",
        f"Scatter plot of {metric} against the leak L for each privacy layer. {listed}.",
        "Mean over the seeds; vertical bars: 95 % bootstrap intervals over test patients; "
        "horizontal bars: range of the seeds. The line joins the front, from which no layer is "
        f"better in both: {front}.",
    )


def _panel(axis: Any, found: Sequence[Point], name: str, results: Results) -> None:
    metric = results.metrics[0]
    kinds = list(dict.fromkeys(kind_of(point.name) for point in found))
    for index, kind in enumerate(kinds):
        group = [p for p in found if kind_of(p.name) == kind and p.values(name)]
        x = np.array([point.mean(name) for point in group])
        y = np.array([point.row.figures[metric].mean for point in group])
        spans = np.array([[min(p.values(name)), max(p.values(name))] for p in group])
        bounds = np.array([[f.low, f.high] for f in (p.row.figures[metric] for p in group)])
        axis.errorbar(
            x,
            y,
            xerr=_reach(x, spans),
            yerr=_reach(y, bounds),
            fmt=MARKERS[index % len(MARKERS)],
            color=colour(index),
            capsize=2,
            label=kind,
        )
        for point, left, top in zip(group, x, y, strict=True):
            offset = (4, 4)
            axis.annotate(point.name, (left, top), offset, textcoords="offset points", fontsize=7)
    if name == "leak":
        front = sorted((p.mean(name), p.row.figures[metric].mean) for p in found if p.on_front)
        axis.plot(*zip(*front, strict=True), color="#888", linewidth=1, zorder=0)


def _reach(centre: Any, bounds: Any) -> Any:
    """Lower and upper error bars, (2, n)."""
    if not len(centre):
        return np.empty((2, 0))
    return np.stack([centre - bounds[:, 0], bounds[:, 1] - centre]).clip(0)


def kind_of(layer: str) -> str:
    """'dp' of 'dp-8': the layers of a kind have a marker in common."""
    return layer.partition("-")[0]
