"""The pictures of a comparison, as the paper draws them; made from the arms' tables alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sltool.experiments.classifier_figures import calibration, roc
from sltool.experiments.regression_figures import agreement, errors
from sltool.experiments.results import Results, Row
from sltool.experiments.style import MARKERS, Picture, colour, line, new_figure, save

Array = NDArray[Any]


UNITS = {"smape": "%", "accuracy": "share of samples"}
NAMES = {"smape": "sMAPE", "r2": "R²", "auroc": "AUROC", "f1": "F1", "bce": "cross-entropy"} | {
    name: name.upper() for name in ("msle", "rmsle", "male", "mae", "mse", "rmse")
}


def draw_all(results: Results, folder: Path) -> list[Picture]:
    """Draw what the data allows, in the order of the page."""
    pictures = [
        bars(results, folder),
        sweeps(results, folder),
        curves(results, folder),
        *(
            [errors(results, folder), agreement(results, folder)]
            if results.kind == "regression"
            else []
        ),
        *(_of_probabilities(results, folder) if results.kind == "binary" else []),
    ]
    return [picture for picture in pictures if picture is not None]


def _of_probabilities(results: Results, folder: Path) -> list[Picture]:
    """There is no ROC where all test samples are of one class."""
    curve = [roc(results, folder)] if "auroc" in results.rows[0].figures else []
    return [*curve, calibration(results, folder)]


def metric_label(name: str, results: Results) -> str:
    """The metric's name with its unit."""
    unit = results.labels.get("unit", "") if name in ("mae", "rmse") else UNITS.get(name, "")
    shown = NAMES.get(name, name)
    return f"{shown} [{unit}]" if unit else shown


def bars(results: Results, folder: Path) -> Picture:
    """The headline metrics of every arm with 95 % intervals (Fig. 6)."""
    metrics = [name for name in results.metrics if name in results.rows[0].figures][:3]
    height = max(2.4, 0.32 * len(results.rows) + 0.9)
    figure, axes = new_figure(9, height, columns=len(metrics))
    places = np.arange(len(results.rows))
    arms = list(dict.fromkeys(row.arm for row in results.rows))
    colours = [colour(arms.index(row.arm)) for row in results.rows]
    for number, (axis, metric) in enumerate(zip(axes[0], metrics, strict=True)):
        shown = [row.figures[metric] for row in results.rows]
        means = np.array([one.mean for one in shown])
        reach = np.array([[one.mean - one.low, one.high - one.mean] for one in shown]).T
        axis.barh(places, means, color=colours, alpha=0.65)
        axis.errorbar(means, places, xerr=reach.clip(0), fmt="none", ecolor="#222", capsize=2)
        axis.set_yticks(places, [row.label for row in results.rows] if number == 0 else [])
        axis.invert_yaxis()
        axis.set_xlabel(metric_label(metric, results))
        axis.grid(axis="y", visible=False)
        if results.kind != "regression":
            lowest = np.nanmin(means - reach[0])
            axis.set_xlim(max(-1.0, lowest - max(0.05, 0.5 * (1 - lowest))), 1)
    save(figure, folder / "bars")
    best = ", ".join(f"{row.label} {row.figures[metrics[0]].mean:.4g}" for row in results.rows)
    return Picture(
        "bars",
        "Every arm",
        f"Bar chart of {', '.join(metrics)} for each arm. {metrics[0]}: {best}.",
        "Mean over the seeds; the lines are 95 % bootstrap intervals over test patients."
        + ("" if results.kind == "regression" else " The axes do not begin at 0."),
    )


def curves(results: Results, folder: Path) -> Picture | None:
    """Loss and accuracy by epoch (Fig. 5); the mean over seeds with the seeds' range."""
    rows = [row for row in results.first_cell() if row.histories]
    if not rows:
        return None
    panels = [("train_loss", "training loss"), ("validation_loss", "validation loss")]
    if results.kind != "regression":
        panels.append(("validation_accuracy", "validation accuracy [share]"))
    figure, axes = new_figure(9, 3.4, columns=len(panels))
    for axis, (column, label) in zip(axes[0], panels, strict=True):
        for number, row in enumerate(rows):
            _curve(axis, row, column, number)
        axis.set_xlabel("epoch")
        axis.set_ylabel(label)
        if column != "validation_accuracy":
            axis.set_yscale("log")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    save(figure, folder / "curves")
    return Picture(
        "curves",
        "Loss and accuracy by epoch (the paper's Fig. 5)",
        f"Line charts by epoch of {', '.join(label for _, label in panels)} for "
        f"{', '.join(row.arm for row in rows)}.",
        "The mean over the seeds; shaded: their range. A single site is validated on its own rows.",
    )


def _curve(axis: Any, row: Row, column: str, number: int) -> None:
    histories = [frame for frame in row.histories if column in frame]
    if not histories:
        return
    epochs = min(len(frame) for frame in histories)
    values = np.array([frame[column].to_numpy(float)[:epochs] for frame in histories])
    steps = histories[0]["epoch"].to_numpy()[:epochs]
    # A few rounds make no line that could be seen.
    marker = "o" if epochs <= 10 else ""
    axis.plot(steps, values.mean(axis=0), label=row.arm, marker=marker, **line(number))
    if len(values) > 1:
        low, high = values.min(axis=0), values.max(axis=0)
        axis.fill_between(steps, low, high, color=colour(number), alpha=0.12, linewidth=0)


def sweeps(results: Results, folder: Path) -> Picture | None:
    """The headline metric along the first swept setting, beside the paper's where it has it."""
    if not results.swept:
        return None
    key, metric = results.swept[0], results.metrics[0]
    values = list(dict.fromkeys(row.sweep.get(key, "") for row in results.rows))
    figure, axes = new_figure(7, 3.6)
    axis = axes[0][0]
    series: dict[str, list[Row]] = {}
    for row in results.rows:
        rest = [f"{name} {value}" for name, value in row.sweep.items() if name != key]
        series.setdefault(", ".join([row.arm, *rest]), []).append(row)
    for number, (label, rows) in enumerate(series.items()):
        places = np.array([values.index(row.sweep[key]) for row in rows]) + 0.06 * number
        shown = [row.figures[metric] for row in rows]
        means = np.array([one.mean for one in shown])
        reach = np.array([[one.mean - one.low, one.high - one.mean] for one in shown]).T.clip(0)
        marker = MARKERS[number % len(MARKERS)]
        axis.errorbar(places, means, reach, label=label, marker=marker, capsize=2, **line(number))
    paper = [one for one in results.published if key in one.sweep and one.metric == metric]
    if paper:
        spots = [values.index(one.sweep[key]) for one in paper if one.sweep[key] in values]
        heights = [one.value for one in paper if one.sweep[key] in values]
        axis.plot(spots, heights, "x", color="#444", markersize=8, label="the paper")
    axis.set_xticks(range(len(values)), values)
    axis.set_xlabel(
        {"cut": "hidden layers at the sites (cut)", "sites": "number of sites"}.get(key, key)
    )
    axis.set_ylabel(metric_label(metric, results))
    axis.legend()
    save(figure, folder / "sweep")
    return Picture(
        "sweep",
        f"{metric} by {key}",
        f"Line chart of {metric} by {key} for {', '.join(series)}.",
        "Mean over the seeds with 95 % bootstrap intervals over test patients.",
    )
