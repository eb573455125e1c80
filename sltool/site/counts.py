"""How many samples a source has of each part of the body: the shape of the paper's Table 2."""

from __future__ import annotations

from collections import Counter, defaultdict

from sltool.datasets.base import Scan
from sltool.study.schema import Labels

ALL = "all"

CountRow = dict[str, str | int]


def count_parts(scan: Scan, rows: list[int], labels: Labels) -> list[CountRow]:
    """For each of the source's lists: a row for each part of the body, then a row for all parts.

    Args:
        rows: the scan's samples to count.

    Returns:
        Rows with the keys `part`, `list`, `total`, each class's name (the positive one first),
        `studies` (the number of examinations) and `patients`; empty if the source names no parts.
    """
    if scan.parts is None:
        return []
    members: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        name, part = scan.parts[row]
        members[name][part].append(row)
        members[name][ALL].append(row)
    return [
        _count_row(scan, name, part, members[name][part], labels)
        for name in sorted(members)
        for part in [*sorted(members[name].keys() - {ALL}), ALL]
    ]


def _count_row(scan: Scan, name: str, part: str, rows: list[int], labels: Labels) -> CountRow:
    class_counts = Counter(scan.labels[rows].tolist())
    classes = {class_name: class_counts[code] for code, class_name in enumerate(labels.classes)}
    examinations = scan.examinations or scan.records
    return {
        "part": part,
        "list": name,
        "total": len(rows),
        **dict(reversed(classes.items())),
        "studies": len({(scan.groups[row], examinations[row]) for row in rows}),
        "patients": len({scan.groups[row] for row in rows}),
    }
