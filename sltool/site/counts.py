"""How many samples a source has of each part of the body: the shape of the paper's Table 2."""

from __future__ import annotations

from collections import Counter, defaultdict

from sltool.datasets.base import Scan
from sltool.study.schema import Labels

ALL = "all"

CountRow = dict[str, str | int]


def count_parts(scan: Scan, kept: list[int], labels: Labels) -> list[CountRow]:
    """A row for each of the source's lists and each part in it, then one over the list's parts.

    Args:
        kept: numbers of the scan's samples that count.

    Returns:
        Rows with the keys `part`, `list`, `total`, each class's name (the positive one first),
        `studies` and `patients`; none where the source does not tell parts.
    """
    if scan.parts is None:
        return []
    members: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for number in kept:
        name, part = scan.parts[number]
        members[name][part].append(number)
        members[name][ALL].append(number)
    return [
        _row(scan, name, part, members[name][part], labels)
        for name in sorted(members)
        for part in [*sorted(members[name].keys() - {ALL}), ALL]
    ]


def _row(scan: Scan, name: str, part: str, numbers: list[int], labels: Labels) -> CountRow:
    found = Counter(scan.labels[numbers].tolist())
    classes = {one: found[code] for code, one in enumerate(labels.classes)}
    examinations = scan.examinations or scan.records
    return {
        "part": part,
        "list": name,
        "total": len(numbers),
        **dict(reversed(classes.items())),
        "studies": len({(scan.groups[number], examinations[number]) for number in numbers}),
        "patients": len({scan.groups[number] for number in numbers}),
    }
