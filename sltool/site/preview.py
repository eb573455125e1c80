"""A summary of how a source was read, shown before it is decoded."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from sltool.datasets.base import Refused, Scan
from sltool.study.schema import Study
from sltool.wording import plural

SHOWN = 5


def preview(scan: Scan, study: Study, study_file: Path) -> list[str]:
    """Lines for the source's owner to check; the first says how to correct mistakes."""
    labels = study.samples.labels
    lines = [
        "this is how the source was read. To correct a mistake, stop with Ctrl-C, edit `dataset` "
        f"in {study_file}, and run the command again",
        *scan.understood,
    ]
    if labels.kind == "regression":
        low, middle, high = np.quantile(scan.labels, [0, 0.5, 1])
        unit = f" {labels.unit}" if labels.unit else ""
        lines.append(
            f"{plural(len(scan), 'sample')}; label {low:g} to {high:g}{unit}, median {middle:g}"
        )
    else:
        class_counts = Counter(scan.labels.tolist())
        counts = [f"{class_counts[code]} {name}" for code, name in enumerate(labels.classes)]
        positive = f" ('{labels.classes[1]}' is the positive class)" * (labels.kind == "binary")
        lines.append(f"{plural(len(scan), 'sample')}: {', '.join(counts)}{positive}")
    patients = Counter(scan.groups)
    most = max(patients.values())
    each = f"with up to {most} samples each" if most > 1 else "a sample each"
    lines.append(f"{plural(len(patients), 'patient')}, {each}")
    return [*lines, *_refused_lines(scan.refused)]


def _refused_lines(refused: list[Refused]) -> list[str]:
    """A line for each of the most common reasons, with its first record."""
    if not refused:
        return []
    reasons = Counter(sample.reason for sample in refused)
    first = {sample.reason: sample.record for sample in reversed(refused)}
    lines = [
        f"refused {count}: {reason} ({'first: ' if count > 1 else ''}{first[reason]})"
        for reason, count in reasons.most_common(SHOWN)
    ]
    hidden = len(reasons) - SHOWN
    return [*lines, f"refused for {hidden} other reasons: see refused.csv"] if hidden > 0 else lines
