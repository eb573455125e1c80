"""Pictures of probabilities for two classes: ROC and calibration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sltool.experiments.results import Results
from sltool.experiments.style import MARKERS, Picture, line, new_figure, save


def roc(results: Results, folder: Path) -> Picture:
    """ROC curves, all seeds' test rows together."""
    from sklearn.metrics import roc_curve

    rows = results.first_cell()
    figure, axis = _square()
    for number, row in enumerate(rows):
        true, given = row.true_and_predicted
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
    figure, axis = _square()
    for number, row in enumerate(rows):
        true, given = row.true_and_predicted
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


def _square() -> tuple[Any, Any]:
    """A figure with its diagonal."""
    figure, axes = new_figure(4.8, 4.8)
    axes[0][0].plot([0, 1], [0, 1], color="#888", linewidth=0.8)
    return figure, axes[0][0]
