"""Pictures of predicted numbers: errors of single samples, and agreement with the truth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sltool.experiments.results import Results, Row
from sltool.experiments.style import Picture, colour, line, new_figure, save
from sltool.metrics import squared_log_errors, symmetric_errors

Array = NDArray[Any]

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
        found = [error(*row.true_and_predicted) for row in rows]
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
    true, predicted = zip(*(row.true_and_predicted for row in rows), strict=True)
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
