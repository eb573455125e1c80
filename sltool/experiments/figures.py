"""The pictures of a comparison, as the paper draws them; made from the arms' tables alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sltool.experiments.results import Results, Row
from sltool.experiments.style import MARKERS, colour, line, new_figure, save
from sltool.metrics import squared_log_errors, symmetric_errors

Array = NDArray[Any]


UNITS = {"smape": "%", "accuracy": "share of samples"}
NAMES = {"smape": "sMAPE", "r2": "R²", "auroc": "AUROC", "f1": "F1", "bce": "cross-entropy"} | {
    name: name.upper() for name in ("msle", "rmsle", "male", "mae", "mse", "rmse")
}


@dataclass(frozen=True)
class Picture:
    """A picture that was written: `NAME.png` and `NAME.svg` in the figures' folder."""

    name: str
    title: str
    alt: str
    caption: str


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
        *([roc(results, folder), calibration(results, folder)] if results.kind == "binary" else []),
    ]
    return [picture for picture in pictures if picture is not None]


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
    for number, (axis, metric) in enumerate(zip(axes[0], metrics, strict=True)):
        shown = [row.figures[metric] for row in results.rows]
        means = np.array([one.mean for one in shown])
        reach = np.array([[one.mean - one.low, one.high - one.mean] for one in shown]).T
        axis.barh(places, means, color=[colour(n) for n in range(len(shown))], alpha=0.65)
        axis.errorbar(means, places, xerr=reach.clip(0), fmt="none", ecolor="#222", capsize=2)
        axis.set_yticks(places, [row.label for row in results.rows] if number == 0 else [])
        axis.invert_yaxis()
        axis.set_xlabel(metric_label(metric, results))
        axis.grid(axis="y", visible=False)
        if results.kind != "regression":
            lowest = np.nanmin(means - reach[0])
            axis.set_xlim(max(-1.0, lowest - 0.5 * (1 - lowest)), 1)
    save(figure, folder / "bars")
    best = ", ".join(f"{row.label} {row.figures[metrics[0]].mean:.4g}" for row in results.rows)
    return Picture(
        "bars",
        "Every arm",
        f"Bar chart of {', '.join(metrics)} for each arm. {metrics[0]}: {best}.",
        "Mean over the seeds; the lines are 95 % bootstrap intervals over test patients.",
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
    steps = np.arange(1, epochs + 1)
    axis.plot(steps, values.mean(axis=0), label=row.arm, **line(number))
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


ERRORS: dict[str, tuple[str, Callable[[Array, Array], Array]]] = {
    "MSLE": ("squared log error of a sample", squared_log_errors),
    "RMSLE": (
        "absolute log error of a sample",
        lambda y, p: np.sqrt(squared_log_errors(y, p)),
    ),
    "sMAPE": ("symmetric error of a sample [%]", lambda y, p: 100 * symmetric_errors(y, p)),
}


def errors(results: Results, folder: Path) -> Picture:
    """CDF and PDF of the per-sample errors (Fig. 9, 10), all seeds' test rows together."""
    rows = _few(results.first_cell(), 6)
    figure, axes = new_figure(9, 5.6, columns=len(ERRORS), rows=2)
    for column, (label, error) in enumerate(ERRORS.values()):
        found = [np.concatenate([error(t.y_true, t.y_pred) for t in row.tables]) for row in rows]
        # Beyond this lie a few rows, which would press all the others to the left edge.
        end = max(float(np.quantile(values, 0.95)) for values in found)
        grid = np.linspace(0, end, 200)
        for number, (row, values) in enumerate(zip(rows, found, strict=True)):
            ordered = np.sort(values)
            share = np.arange(1, len(ordered) + 1) / len(ordered)
            shown = slice(None, None, max(1, len(ordered) // 1000))
            axes[0][column].plot(ordered[shown], share[shown], label=row.arm, **line(number))
            axes[1][column].plot(grid, _density(values, grid), **line(number))
        axes[0][column].set_xlim(0, end)
        axes[0][column].set_ylabel("share of samples (CDF)")
        axes[1][column].set_ylabel("density (PDF)")
        # Most errors are tiny: on a linear scale one sees a spike and nothing else.
        axes[1][column].set_yscale("log")
        highest = max(float(drawn.get_ydata().max()) for drawn in axes[1][column].lines)
        axes[1][column].set_ylim(highest * 1e-3, highest * 2)
        axes[1][column].set_xlabel(label)
        axes[1][column].set_xlim(0, end)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    save(figure, folder / "errors")
    return Picture(
        "errors",
        "Errors of single samples (the paper's Fig. 9 and 10)",
        "Cumulative distribution and density of the per-sample MSLE, RMSLE and sMAPE for "
        f"{', '.join(row.arm for row in rows)}.",
        "The test rows of all seeds. The largest 5 % of the worst arm's errors are not shown.",
    )


def _density(values: Array, grid: Array) -> Array:
    """A Gaussian kernel estimate with Silverman's width, mirrored at 0, where errors end."""
    quarter = np.subtract(*np.percentile(values, [75, 25])) / 1.34
    width = 0.9 * max(min(float(values.std()), float(quarter)), 1e-9) * len(values) ** -0.2
    total = np.zeros_like(grid)
    for part in np.array_split(values, max(1, len(values) // 1000)):
        for mirrored in (part, -part):
            total += np.exp(-0.5 * ((grid[:, None] - mirrored) / width) ** 2).sum(axis=1)
    return np.asarray(total / (len(values) * width * np.sqrt(2 * np.pi)))


def agreement(results: Results, folder: Path) -> Picture:
    """Predicted against true, and Bland-Altman, for the first arms."""
    rows = _few(results.first_cell())
    unit = results.labels.get("unit") or "label's unit"
    figure, axes = new_figure(9, 5.4, columns=len(rows), rows=2)
    true = [np.concatenate([table.y_true for table in row.tables]) for row in rows]
    predicted = [np.concatenate([table.y_pred for table in row.tables]) for row in rows]
    low, high = np.percentile(np.concatenate([*true, *predicted]), [0.1, 99.9])
    gaps = [p - y for y, p in zip(true, predicted, strict=True)]
    reach = 1.1 * max(float(np.abs(np.percentile(gap, [0.5, 99.5])).max()) for gap in gaps)
    for column, row in enumerate(rows):
        dots = {"s": 4, "alpha": 0.25, "linewidths": 0, "color": colour(column), "rasterized": True}
        upper, lower = axes[0][column], axes[1][column]
        upper.scatter(true[column], predicted[column], **dots)
        upper.plot([low, high], [low, high], color="#222", linewidth=1)
        upper.set(xlim=(low, high), ylim=(low, high), title=row.arm, xlabel=f"true [{unit}]")
        bias, spread = gaps[column].mean(), 1.96 * gaps[column].std(ddof=1)
        lower.scatter((true[column] + predicted[column]) / 2, gaps[column], **dots)
        for height, dashes in ((bias, "-"), (bias - spread, "--"), (bias + spread, "--")):
            lower.axhline(height, color="#222", linewidth=1, linestyle=dashes)
        lower.set(xlim=(low, high), ylim=(-reach, reach), xlabel=f"mean of both [{unit}]")
        lower.set_title(f"bias {bias:+.1f}, limits ±{spread:.1f}", fontsize=8)
    axes[0][0].set_ylabel(f"predicted [{unit}]")
    axes[1][0].set_ylabel(f"predicted - true [{unit}]")
    save(figure, folder / "agreement")
    return Picture(
        "agreement",
        "Predicted against true, and Bland-Altman",
        f"Scatter plots of predicted against true values, and of their difference against their "
        f"mean with bias and 95 % limits of agreement, for {', '.join(row.arm for row in rows)}.",
        "Upper row: the line is perfect agreement. Lower row: bias and 95 % limits of agreement "
        "(Bland and Altman, 1986). The outermost 0.1 to 0.5 % of points may lie outside.",
    )


def _few(rows: list[Row], most: int = 4) -> list[Row]:
    """Of many arms those that one wants to see beside each other."""
    if len(rows) <= most:
        return rows
    wanted = ("multi", "single:C", "boosting", "sampson", "pooled", "friedewald")
    chosen = {row.arm: row for row in rows}
    return [chosen[name] for name in wanted if name in chosen][:most] or rows[:most]


def roc(results: Results, folder: Path) -> Picture:
    """ROC curves, all seeds' test rows together."""
    from sklearn.metrics import roc_curve

    rows = results.first_cell()
    figure, axes = new_figure(4.8, 4.8)
    axis = axes[0][0]
    axis.plot([0, 1], [0, 1], color="#888", linewidth=0.8)
    for number, row in enumerate(rows):
        true = np.concatenate([table.y_true for table in row.tables])
        given = np.concatenate([table.y_pred for table in row.tables])
        false_rate, true_rate, _ = roc_curve(true, given)
        axis.plot(false_rate, true_rate, label=row.arm, **line(number))
    axis.set(
        xlabel="1 - specificity [share of negatives]", ylabel="sensitivity [share of positives]"
    )
    axis.legend(loc="lower right")
    save(figure, folder / "roc")
    shown = ", ".join(
        f"{row.arm} {row.figures['auroc'].mean:.3f}" for row in rows if "auroc" in row.figures
    )
    return Picture(
        "roc", "ROC", f"ROC curves. Area under the curve: {shown}.", "The test rows of all seeds."
    )


def calibration(results: Results, folder: Path) -> Picture:
    """How often a positive is true, by the probability that was given to it."""
    rows = results.first_cell()
    figure, axes = new_figure(4.8, 4.8)
    axis = axes[0][0]
    axis.plot([0, 1], [0, 1], color="#888", linewidth=0.8)
    for number, row in enumerate(rows):
        true = np.concatenate([table.y_true for table in row.tables])
        given = np.concatenate([table.y_pred for table in row.tables])
        tenth = np.minimum((given * 10).astype(int), 9)
        filled = [n for n in range(10) if (tenth == n).any()]
        means = [given[tenth == n].mean() for n in filled]
        shares = [true[tenth == n].mean() for n in filled]
        marker = MARKERS[number % len(MARKERS)]
        axis.plot(means, shares, marker=marker, markersize=4, label=row.arm, **line(number))
    axis.set(xlabel="probability given to the positive class", ylabel="share that is positive")
    axis.legend(loc="upper left")
    save(figure, folder / "calibration")
    return Picture(
        "calibration",
        "Calibration",
        "Share of positives by the probability given, in tenths, for "
        f"{', '.join(row.arm for row in rows)}; the diagonal is perfect.",
        "The test rows of all seeds, in ten bins of probability.",
    )
