"""Pictures for binary classification: ROC and calibration."""

from __future__ import annotations

from typing import Any

from sltool.experiments.results import Results
from sltool.experiments.rounding import with_spread
from sltool.experiments.style import MARKERS, Picture, Sheet, line


def roc(results: Results, sheet: Sheet) -> Picture:
    """ROC curves, pooled over the test rows of all seeds."""
    from sklearn.metrics import roc_curve

    rows = results.first_cell()
    figure, axis = _square(sheet)
    for index, row in enumerate(rows):
        true, predicted = row.true_and_predicted
        false_rate, true_rate, _ = roc_curve(true, predicted)
        axis.plot(false_rate, true_rate, label=row.arm, **line(index))
    axis.set(
        xlabel="1 - specificity [share of negatives]", ylabel="sensitivity [share of positives]"
    )
    axis.legend(loc="lower right")
    sheet.save(figure, "roc")
    shown = ", ".join(
        f"{row.arm} {with_spread(auroc.mean, auroc.sd, (auroc.high - auroc.low) / 2)}"
        for row in rows
        if (auroc := row.figures.get("auroc"))
    )
    return Picture(
        "roc", "ROC", f"ROC curves. Area under the curve: {shown}.", "The test rows of all seeds."
    )


def calibration(results: Results, sheet: Sheet) -> Picture:
    """Reliability diagram: the share of positives against the predicted probability."""
    from sklearn.calibration import calibration_curve

    rows = results.first_cell()
    figure, axis = _square(sheet)
    for index, row in enumerate(rows):
        true, predicted = row.true_and_predicted
        shares, means = calibration_curve(true, predicted, pos_label=1, n_bins=10)
        marker = MARKERS[index % len(MARKERS)]
        axis.plot(means, shares, marker=marker, markersize=4, label=row.arm, **line(index))
    axis.set(xlabel="predicted probability of the positive class", ylabel="share that is positive")
    axis.legend(loc="upper left")
    sheet.save(figure, "calibration")
    return Picture(
        "calibration",
        "Calibration",
        "Share of positives by predicted probability, in tenths, for "
        f"{', '.join(row.arm for row in rows)}; the diagonal is perfect calibration.",
        "The test rows of all seeds, in ten bins of probability.",
    )


def _square(sheet: Sheet) -> tuple[Any, Any]:
    """A square figure with the diagonal drawn, and its axis."""
    figure, axes = sheet.figure(4.2, 4.2)
    axes[0][0].plot([0, 1], [0, 1], color="#888", linewidth=0.8)
    return figure, axes[0][0]
