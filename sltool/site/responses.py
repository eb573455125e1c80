"""`sites/SITE/responses.csv`: the randomised responses that are shipped in place of labels.

A response is drawn once for a record, its true label and an epsilon, and kept: new draws in each
encoding would let their majority reveal the label (the permanent response of Erlingsson et al.,
"RAPPOR", 2014, arXiv 1407.6981). The draws come from the system's entropy.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sltool.errors import BadDataError
from sltool.files import read_csv, write_csv
from sltool.randomised_response import RandomisedResponse
from sltool.site.withdrawals import site_people
from sltool.study.layout import SiteFolder
from sltool.wording import plural

COLUMNS = ("record", "label", "classes", "epsilon", "response")
LOST = "bring the file back from a backup: new responses would reveal more of the labels"

_SYSTEM = secrets.SystemRandom()


def responses(
    site: SiteFolder,
    pseudonyms: Sequence[str],
    labels: NDArray[np.int64],
    method: RandomisedResponse,
) -> NDArray[np.int64]:
    """The (N,) class indices to ship for these (N,) labels; new ones are drawn and kept.

    Raises:
        BadDataError: a table of the site is damaged, or lacks a sample.
    """
    records = _records(site, pseudonyms)
    kept = _kept(site)
    answers = np.empty_like(labels)
    for row, (record, label) in enumerate(zip(records, labels.tolist(), strict=True)):
        key = (record, str(label), str(method.classes), repr(method.epsilon))
        if key not in kept:
            kept[key] = str(draw(label, method))
        answers[row] = _class_index(kept[key], method, site)
    rows = (dict(zip(COLUMNS, (*key, answer), strict=True)) for key, answer in kept.items())
    # Written before any of them is in a shard.
    write_csv(site.responses, rows, COLUMNS)
    return answers


def draw(label: int, method: RandomisedResponse) -> int:
    """A new response to this class index."""
    if _SYSTEM.random() < method.keep:
        return label
    other = _SYSTEM.randrange(method.classes - 1)
    return other + (other >= label)


def _records(site: SiteFolder, pseudonyms: Sequence[str]) -> list[str]:
    """The record of each sample, which a new partition does not change as it does pseudonyms."""
    known = {row["pseudonym"]: row["record"] for row in site_people(site)}
    missing = sum(pseudonym not in known for pseudonym in pseudonyms)
    if missing:
        raise BadDataError(
            f"{plural(missing, 'sample is', 'samples are')} not in the table of pseudonyms",
            where=site.pseudonyms,
            hint="bring the table back from a backup, or run `sltool partition --force`",
        )
    return [known[pseudonym] for pseudonym in pseudonyms]


def _kept(site: SiteFolder) -> dict[tuple[str, ...], str]:
    rows: list[dict[str, Any]] = (
        read_csv(site.responses, COLUMNS, LOST) if site.responses.is_file() else []
    )
    return {tuple(row[column] for column in COLUMNS[:-1]): row["response"] for row in rows}


def _class_index(text: str, method: RandomisedResponse, site: SiteFolder) -> int:
    if not (text.isdecimal() and int(text) < method.classes):
        raise BadDataError(
            f"the table has the response '{text}'",
            where=site.responses,
            expected=f"a class index below {method.classes}",
            hint=LOST,
        )
    return int(text)
