"""What a source was taken for, told before it is decoded."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from sltool.datasets.base import Refused, Scan
from sltool.study.schema import Study

SHOWN = 5


def preview(scan: Scan, study: Study, study_file: Path) -> list[str]:
    """Lines for the source's owner; the first says how to correct what they say."""
    labels = study.samples.labels
    lines = [
        "this is how the source was read. What is wrong is corrected under `dataset` in "
        f"{study_file}: stop with Ctrl-C, edit, and run the command again",
        *scan.understood,
    ]
    if labels.kind == "regression":
        low, middle, high = np.quantile(scan.labels, [0, 0.5, 1])
        unit = f" {labels.unit}" if labels.unit else ""
        lines.append(f"{len(scan)} samples; label {low:g} to {high:g}{unit}, median {middle:g}")
    else:
        found = Counter(scan.labels.tolist())
        counts = [f"{found[code]} {name}" for code, name in enumerate(labels.classes)]
        positive = f" ('{labels.classes[1]}' is the positive class)" * (labels.kind == "binary")
        lines.append(f"{len(scan)} samples: {', '.join(counts)}{positive}")
    patients = Counter(scan.groups)
    most = max(patients.values())
    each = f"with up to {most} samples each" if most > 1 else "a sample each"
    lines.append(f"{len(patients)} patients, {each}")
    return [*lines, *_refused(scan.refused)]


def _refused(refused: list[Refused]) -> list[str]:
    """'12 refused' with the first of each kind."""
    if not refused:
        return []
    reasons = Counter(one.reason for one in refused)
    first = {one.reason: one.record for one in reversed(refused)}
    lines = [
        f"refused {count}: {reason} ({'first: ' if count > 1 else ''}{first[reason]})"
        for reason, count in reasons.most_common(SHOWN)
    ]
    more = len(reasons) - SHOWN
    return [*lines, f"refused for {more} other reasons: see refused.csv"] if more > 0 else lines
