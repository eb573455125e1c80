"""Pictures for regression: per-sample errors, and agreement with the true values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sltool.experiments.results import ArmResult, Results
from sltool.experiments.style import Picture, Sheet, colour, line
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


def errors(results: Results, sheet: Sheet) -> Picture:
    """CDF and PDF of the per-sample errors (Fig. 9, 10), pooled over the test rows of all seeds."""
    rows = _comparable(results.first_cell(), 6)
    figure, axes = sheet.figure(9, 5.6, columns=len(ERRORS), rows=2)
    for column, (label, error) in enumerate(ERRORS.values()):
        sample_errors = [error(*row.true_and_predicted) for row in rows]
        # The few largest errors would compress the rest of the distribution into the left edge.
        end = max(float(np.quantile(values, 0.95)) for values in sample_errors)
        grid = np.linspace(0, end, 200)
        for index, (row, values) in enumerate(zip(rows, sample_errors, strict=True)):
            ordered = np.sort(values)
            share = np.arange(1, len(ordered) + 1) / len(ordered)
            shown = slice(None, None, max(1, len(ordered) // 1000))
            axes[0][column].plot(ordered[shown], share[shown], label=row.arm, **line(index))
            axes[1][column].plot(grid, density(values, grid), **line(index))
        axes[0][column].set_xlim(0, end)
        axes[0][column].set_ylabel("share of samples (CDF)")
        axes[1][column].set_ylabel("density (PDF)")
        # Most errors are tiny: a linear scale would show a single spike.
        axes[1][column].set_yscale("log")
        heights = [drawn.get_ydata() for drawn in axes[1][column].lines]
        highest = float(np.nanmax([1e-9, *map(np.max, heights)]))
        axes[1][column].set_ylim(highest * 1e-3, highest * 2)
        axes[1][column].set_xlabel(sheet.label(label))
        if sheet.narrow:
            axes[0][column].set_xlabel(sheet.label(label))
        axes[1][column].set_xlim(0, end)
    sheet.legend_below(figure, axes[0][0], 5)
    sheet.save(figure, "errors")
    return Picture(
        "errors",
        "Per-sample errors (the paper's Fig. 9 and 10)",
        "Cumulative distribution and density of the per-sample MSLE, RMSLE and sMAPE for "
        f"{', '.join(row.arm for row in rows)}.",
        "The test rows of all seeds. The largest 5 % of the worst arm's errors are not shown, "
        "nor is the density of errors that lie too close together to draw.",
    )


def density(values: Array, grid: Array) -> Array:
    """A Gaussian kernel density estimate with Silverman's bandwidth, reflected at the bound 0.

    Values beyond the grid are part of the normalisation but not of the bandwidth. NaN where all
    values lie closer together than the grid points, such as the errors of an exact formula.
    """
    from scipy.stats import gaussian_kde

    shown = values[values <= grid[-1]]
    if len(shown) < 2 or np.ptp(shown) <= grid[1] - grid[0]:
        return np.full_like(grid, np.nan)
    estimate = gaussian_kde(shown, bw_method="silverman")
    return np.asarray((estimate(grid) + estimate(-grid)) * len(shown) / len(values))


def agreement(results: Results, sheet: Sheet) -> Picture:
    """Predicted against true values and Bland-Altman plots, for up to four arms."""
    rows = _comparable(results.first_cell())
    unit = results.labels.get("unit") or "label's unit"
    figure, axes = sheet.figure(9, 5.4, columns=len(rows), rows=2)
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
        if sheet.narrow or column == 0:
            upper.set_ylabel(f"predicted [{unit}]")
            lower.set_ylabel(f"predicted - true [{unit}]")
    sheet.save(figure, "agreement")
    return Picture(
        "agreement",
        "Predicted against true, and Bland-Altman",
        f"Scatter plots of predicted against true values, and of their difference against their "
        f"mean with bias and 95 % limits of agreement, for {', '.join(row.arm for row in rows)}.",
        "Predicted against true: the line is perfect agreement. Difference against mean: bias "
        "and 95 % limits of agreement (Bland and Altman, 1986). The outermost 0.1 to 0.5 % of "
        "points may lie outside the axes.",
    )


def _comparable(rows: list[ArmResult], most: int = 4) -> list[ArmResult]:
    """At most `most` arms: where there are more, those most useful to compare."""
    if len(rows) <= most:
        return rows
    wanted = ("multi", "single:C", "boosting", "sampson", "pooled", "friedewald")
    chosen = {row.arm: row for row in rows}
    return [chosen[name] for name in wanted if name in chosen][:most] or rows[:most]
