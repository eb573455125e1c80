"""The pictures of a comparison, after those of the paper; made only from the arms' tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sltool.experiments.classifier_figures import calibration, roc
from sltool.experiments.regression_figures import agreement, errors
from sltool.experiments.results import ArmResult, Results
from sltool.experiments.rounding import with_spread
from sltool.experiments.style import MARKERS, Picture, Sheet, colour, line
from sltool.registry import metrics

Array = NDArray[Any]


# Labels of the horizontal axis of a sweep.
AXES = {
    "cut": "hidden layers at the sites (cut)",
    "sites": "number of sites",
    "skew": "label skew: alpha of the Dirichlet distribution (iid: none)",
    "quantity-skew": "size skew: alpha of the Dirichlet distribution (iid: none)",
}
UNITS = {"accuracy": "share of samples"}
NAMES = {"smape": "sMAPE", "r2": "R²", "auroc": "AUROC", "f1": "F1", "bce": "cross-entropy"} | {
    name: name.upper() for name in ("msle", "rmsle", "male", "mae", "mse", "rmse")
}


def draw_all(results: Results, folder: Path) -> list[Picture]:
    """Draw every picture that suits the data, in the order of the page."""
    drawn = _draw_panels(results, Sheet(folder))
    _draw_panels(results, Sheet(folder, narrow=True))
    if results.kind == "binary":
        # Small square pictures need no narrow version.
        drawn += _probability_pictures(results, Sheet(folder))
    return drawn


def _draw_panels(results: Results, sheet: Sheet) -> list[Picture]:
    drawn = [bars(results, sheet), sweeps(results, sheet), curves(results, sheet)]
    if results.kind == "regression":
        drawn += [errors(results, sheet), agreement(results, sheet)]
    return [picture for picture in drawn if picture is not None]


def _probability_pictures(results: Results, sheet: Sheet) -> list[Picture]:
    """ROC, which is undefined where all test samples have the same class, and calibration."""
    both_classes = all(
        len(np.unique(table.y_true)) > 1 for row in results.rows for table in row.tables
    )
    return [*([roc(results, sheet)] if both_classes else []), calibration(results, sheet)]


def metric_label(name: str, results: Results) -> str:
    """The metric's name with its unit."""
    unit = metrics.entry(name).facts.get("unit", UNITS.get(name, ""))
    if unit == "label":
        unit = results.labels.get("unit", "")
    return f"{metric_name(name)} [{unit}]" if unit else metric_name(name)


def metric_name(name: str) -> str:
    """The metric's usual spelling in publications."""
    return NAMES.get(name, name)


def bars(results: Results, sheet: Sheet) -> Picture:
    """The headline metrics of every arm with 95 % intervals (Fig. 6)."""
    headlines = results.metrics[:3]
    height = max(2.4, 0.32 * len(results.rows) + 0.9)
    figure, axes = sheet.figure(9, height, columns=len(headlines))
    places = np.arange(len(results.rows))
    labels = [row.label for row in results.rows]
    arms = list(dict.fromkeys(row.arm for row in results.rows))
    colours = [colour(arms.index(row.arm)) for row in results.rows]
    for panel, (axis, metric) in enumerate(zip(axes[0], headlines, strict=True)):
        shown = [row.figures[metric] for row in results.rows]
        means = np.array([f.mean for f in shown])
        reach = np.array([[f.mean - f.low, f.high - f.mean] for f in shown]).T
        axis.barh(places, means, color=colours, alpha=0.65)
        axis.errorbar(means, places, xerr=reach.clip(0), fmt="none", ecolor="#222", capsize=2)
        axis.set_yticks(places, labels if sheet.narrow or panel == 0 else [])
        axis.invert_yaxis()
        axis.set_xlabel(metric_label(metric, results))
        axis.grid(axis="y", visible=False)
        if results.kind != "regression":
            ends = np.concatenate([means, means - reach[0]])
            lowest = np.min(ends[np.isfinite(ends)], initial=0.99)
            axis.set_xlim(max(-1.0, lowest - max(0.05, 0.5 * (1 - lowest))), 1)
    sheet.save(figure, "bars")
    headline = [row.figures[headlines[0]] for row in results.rows]
    best = ", ".join(
        f"{label} {with_spread(result.mean, result.sd, (result.high - result.low) / 2)}"
        for label, result in zip(labels, headline, strict=True)
    )
    return Picture(
        "bars",
        "Every arm",
        f"Bar chart of {', '.join(headlines)} for each arm. {headlines[0]}: {best}.",
        "Mean over the seeds; error bars are 95 % bootstrap intervals over test patients."
        + ("" if results.kind == "regression" else " The axes do not start at 0."),
    )


def curves(results: Results, sheet: Sheet) -> Picture | None:
    """Loss and accuracy by epoch (Fig. 5); the mean over seeds with the seeds' range."""
    rows = [row for row in results.first_cell() if row.histories]
    if not rows:
        return None
    panels = [("train_loss", "training loss"), ("validation_loss", "validation loss")]
    if results.kind != "regression":
        panels.append(("validation_accuracy", "validation accuracy [share]"))
    figure, axes = sheet.figure(9, 3.4, columns=len(panels))
    for axis, (column, label) in zip(axes[0], panels, strict=True):
        for index, row in enumerate(rows):
            _curve(axis, row, column, index)
        axis.set_xlabel("epoch")
        axis.set_ylabel(label)
        if column != "validation_accuracy":
            axis.set_yscale("log")
    sheet.legend_below(figure, axes[0][0], 4)
    sheet.save(figure, "curves")
    return Picture(
        "curves",
        "Loss and accuracy by epoch (the paper's Fig. 5)",
        f"Line charts by epoch of {', '.join(label for _, label in panels)} for "
        f"{', '.join(row.arm for row in rows)}.",
        "The mean over the seeds; shaded: their range. "
        "A single-site arm is validated on that site's rows.",
    )


def _curve(axis: Any, row: ArmResult, column: str, index: int) -> None:
    histories = [frame for frame in row.histories if column in frame]
    if not histories:
        return
    epochs = min(len(frame) for frame in histories)
    values = np.array([frame[column].to_numpy(float)[:epochs] for frame in histories])
    steps = histories[0]["epoch"].to_numpy()[:epochs]
    # A line through a few rounds is too short to see without markers.
    marker = "o" if epochs <= 10 else ""
    axis.plot(steps, values.mean(axis=0), label=row.arm, marker=marker, **line(index))
    if len(values) > 1:
        low, high = values.min(axis=0), values.max(axis=0)
        axis.fill_between(steps, low, high, color=colour(index), alpha=0.12, linewidth=0)


def sweeps(results: Results, sheet: Sheet) -> Picture | None:
    """The headline metric against the swept setting, beside the paper's values, if any."""
    if not results.axis:
        return None
    key, metric, values = results.axis, results.metrics[0], results.axis_values
    figure, axes = sheet.figure(7, 3.6)
    axis = axes[0][0]
    series = _series(results)
    for index, (label, rows) in enumerate(series.items()):
        places = np.array([values.index(row.sweep[key]) for row in rows]) + 0.06 * index
        shown = [row.figures[metric] for row in rows]
        means, spread = np.array([(f.mean, f.sd) for f in shown]).T
        reach = np.array([[f.mean - f.low, f.high - f.mean] for f in shown]).T.clip(0)
        marker = MARKERS[index % len(MARKERS)]
        axis.errorbar(places, means, reach, label=label, marker=marker, capsize=2, **line(index))
        axis.fill_between(
            places, means - spread, means + spread, color=colour(index), alpha=0.12, linewidth=0
        )
    _mark_published(axis, results, key, values)
    axis.set_xticks(range(len(values)), values)
    axis.set_xlabel(AXES.get(key, key))
    axis.set_ylabel(metric_label(metric, results))
    axis.legend()
    sheet.save(figure, "sweep")
    return Picture(
        "sweep",
        f"{metric_name(metric)} by {key}",
        f"Line chart of {metric_name(metric)} by {key} for {', '.join(series)}.",
        "Mean over the seeds; bars: 95 % bootstrap intervals over test patients; shaded: one "
        "standard deviation over the seeds.",
    )


def _series(results: Results) -> dict[str, list[ArmResult]]:
    """The lines of the figure: the arms, for each point of the other keys that vary."""
    varying = [key for key in results.swept if len({row.sweep[key] for row in results.rows}) > 1]
    series: dict[str, list[ArmResult]] = {}
    for row in results.rows:
        rest = [f"{key} {row.sweep[key]}" for key in varying if key != results.axis]
        series.setdefault(", ".join([row.arm, *rest]), []).append(row)
    return series


def _mark_published(axis: Any, results: Results, key: str, values: list[str]) -> None:
    """Draw the paper's values of the headline metric at those of `values` that it has."""
    metric = results.metrics[0]
    published = [row for row in results.published if key in row.sweep and row.metric == metric]
    if published:
        shown = [row for row in published if row.sweep[key] in values]
        places = [values.index(row.sweep[key]) for row in shown]
        heights = [row.value for row in shown]
        axis.plot(places, heights, "x", color="#444", markersize=8, label="the paper")
