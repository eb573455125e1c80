"""Sites from a column of the source, for `partition --by`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sltool.errors import UnknownNameError, UsageError
from sltool.names import site_names_of
from sltool.progress import Progress
from sltool.site.private_file import PrivateFile
from sltool.wording import plural

# The site of samples for which the source says nothing.
UNKNOWN = "unknown"
# A column that has at least half as many values as samples does not name sites.
MOST_VALUES = 0.5
SHOWN = 10
PREPARE_HINT = (
    "a source that names hospitals, scanners or years has such columns; after an update of sltool, "
    "`sltool prepare --force` reads them"
)


@dataclass(frozen=True)
class ColumnSites:
    """The sites that follow from a column.

    Attributes:
        index: (N,) index into `names` of each sample of `prepared.h5`.
        names: the sites' names, sorted.
        values: each site's value in the source.
    """

    index: NDArray[np.int64]
    names: list[str]
    values: dict[str, str]


def sites_by_column(prepared: PrivateFile, column: str) -> ColumnSites:
    """A site for each value of a column.

    Raises:
        UnknownNameError: the source has no such column.
        UsageError: the column's values are no sites.
    """
    known = prepared.named_columns()
    if column not in known:
        error = UnknownNameError.of("column", column, known, hint=PREPARE_HINT)
        if not known:
            error.expected = "prepared.h5 has no column of the source's"
        raise error
    texts = [text.strip() or UNKNOWN for text in prepared.named_column(column)]
    values = sorted(set(texts))
    if len(values) > 1 and len(values) >= MOST_VALUES * len(texts):
        raise UsageError(
            f"the column '{column}' has {len(values)} values for {len(texts)} samples",
            expected=f"a column that names sites, one of {', '.join(known)}",
            hint="divide by --sites N instead",
        )
    by_value = site_names_of(values)
    order = sorted(values, key=by_value.__getitem__)
    codes = {value: code for code, value in enumerate(order)}
    index = np.array([codes[text] for text in texts], dtype=np.int64)
    return ColumnSites(
        index, [by_value[value] for value in order], {by_value[value]: value for value in order}
    )


def whole_patients(
    index: NDArray[np.int64], groups: NDArray[np.str_], sites: ColumnSites, progress: Progress
) -> NDArray[np.int64]:
    """(n,) the site of each sample: all of a patient where most of the patient's samples are.

    Of sites with as many, the first in the order of names. Notes say what was moved, and which
    names differ from the source's values.
    """
    renamed = [f"{name} is '{value}'" for name, value in sites.values.items() if name != value]
    if renamed:
        progress.note(f"names of sites: {_listed(renamed)}")
    _, patients = np.unique(groups, return_inverse=True)
    counts: dict[int, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for patient, site in zip(patients.tolist(), index.tolist(), strict=True):
        counts[patient][site] += 1
    home = {
        patient: min(found, key=lambda site: (-found[site], site))
        for patient, found in counts.items()
    }
    moved = np.array([home[patient] for patient in patients.tolist()], dtype=np.int64)
    several = sum(len(found) > 1 for found in counts.values())
    if several:
        samples = plural(int((moved != index).sum()), "sample was", "samples were")
        progress.note(
            f"{plural(several, 'patient has', 'patients have')} samples at two sites or more: "
            f"{samples} moved to the site that has most of the patient's"
        )
    return moved


def _listed(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return ", ".join(texts[:SHOWN]) + more
