"""Pictures of probabilities for two classes: ROC and calibration."""

from __future__ import annotations

from typing import Any

from sltool.experiments.results import Results
from sltool.experiments.rounding import with_spread
from sltool.experiments.style import MARKERS, Picture, Sheet, line


def roc(results: Results, sheet: Sheet) -> Picture:
    """ROC curves, all seeds' test rows together."""
    from sklearn.metrics import roc_curve

    rows = results.first_cell()
    figure, axis = _square(sheet)
    for number, row in enumerate(rows):
        true, given = row.true_and_predicted
        false_rate, true_rate, _ = roc_curve(true, given)
        axis.plot(false_rate, true_rate, label=row.arm, **line(number))
    axis.set(
        xlabel="1 - specificity [share of negatives]", ylabel="sensitivity [share of positives]"
    )
    axis.legend(loc="lower right")
    sheet.save(figure, "roc")
    shown = ", ".join(
        f"{row.arm} {with_spread(one.mean, one.sd, (one.high - one.low) / 2)}"
        for row in rows
        if (one := row.figures.get("auroc"))
    )
    return Picture(
        "roc", "ROC", f"ROC curves. Area under the curve: {shown}.", "The test rows of all seeds."
    )


def calibration(results: Results, sheet: Sheet) -> Picture:
    """How often a positive is true, by the probability that was given to it."""
    from sklearn.calibration import calibration_curve

    rows = results.first_cell()
    figure, axis = _square(sheet)
    for number, row in enumerate(rows):
        true, given = row.true_and_predicted
        shares, means = calibration_curve(true, given, pos_label=1, n_bins=10)
        marker = MARKERS[number % len(MARKERS)]
        axis.plot(means, shares, marker=marker, markersize=4, label=row.arm, **line(number))
    axis.set(xlabel="probability given to the positive class", ylabel="share that is positive")
    axis.legend(loc="upper left")
    sheet.save(figure, "calibration")
    return Picture(
        "calibration",
        "Calibration",
        "Share of positives by the probability given, in tenths, for "
        f"{', '.join(row.arm for row in rows)}; the diagonal is perfect.",
        "The test rows of all seeds, in ten bins of probability.",
    )


def _square(sheet: Sheet) -> tuple[Any, Any]:
    """A figure with its diagonal."""
    figure, axes = sheet.figure(4.2, 4.2)
    axes[0][0].plot([0, 1], [0, 1], color="#888", linewidth=0.8)
    return figure, axes[0][0]
