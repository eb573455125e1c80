"""`sites/SITE/withdrawn.csv`: patients who withdrew, so that no stage encodes them again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sltool.files import read_csv, write_csv
from sltool.study.layout import SiteFolder, StudyFolder
from sltool.wording import plural

COLUMNS = ("pseudonym", "record", "patient")
# The columns of `pseudonyms.csv`.
PRIVATE_COLUMNS = ("pseudonym", "group", "split", "record", "patient", "examination")
# The columns of `prediction/pseudonyms.csv`.
CASE_COLUMNS = ("pseudonym", "group", "record", "patient", "examination", "shard", "content")
RESTORE = "bring the table back from a backup: without it, patients who withdrew are encoded again"


def read_people(path: Path, columns: Sequence[str] = COLUMNS) -> list[dict[str, str]]:
    """The rows of a table that identifies patients; [] if the file does not exist.

    Raises:
        BadDataError: the table lacks one of `columns`, or a value in it.
        StorageError: the table cannot be read.
    """
    return read_csv(path, columns, RESTORE) if path.is_file() else []


def site_people(site: SiteFolder) -> list[dict[str, str]]:
    """`pseudonym, record, patient` of every sample and case of the site, each pseudonym once."""
    tables = (site.pseudonyms, site.former_pseudonyms, site.case_pseudonyms, site.withdrawn)
    rows = [row for table in tables for row in read_people(table)]
    return list({row["pseudonym"]: row for row in rows}.values())


def save_former_pseudonyms(site: SiteFolder) -> None:
    """Save the pseudonyms that `partition` is about to replace: they may have been shipped."""
    former = read_people(site.former_pseudonyms, PRIVATE_COLUMNS[:1])
    replaced = read_people(site.pseudonyms)
    if replaced:
        rows = {row["pseudonym"]: row for row in [*former, *replaced]}
        write_csv(site.former_pseudonyms, rows.values(), PRIVATE_COLUMNS)


def add_withdrawn(site: SiteFolder, rows: Iterable[dict[str, str]]) -> None:
    """Add rows of `site_people` to the site's list."""
    listed = {row["pseudonym"]: row for row in read_people(site.withdrawn)}
    listed |= {row["pseudonym"]: row for row in rows}
    table = ({column: row[column] for column in COLUMNS} for row in listed.values())
    write_csv(site.withdrawn, table, COLUMNS)


@dataclass(frozen=True)
class Withdrawals:
    """Who withdrew at any site of this folder; a withdrawal at one site applies to all."""

    pseudonyms: frozenset[str]
    records: frozenset[str]
    patients: frozenset[str]
    # Records of patients without a name of their own in the source.
    nameless: frozenset[str] = frozenset()

    @classmethod
    def read(cls, folder: StudyFolder) -> Withdrawals:
        """Read all lists in the study's folder.

        Raises:
            BadDataError: a list is damaged.
        """
        rows = [row for path in folder.withdrawn_lists() for row in read_people(path)]
        nameless = frozenset(row["record"] for row in rows if row["record"] == row["patient"])
        pseudonyms, records, patients = (frozenset(row[name] for row in rows) for name in COLUMNS)
        return cls(pseudonyms, records, patients, nameless)

    def allowed(self, records: Sequence[str], patients: Sequence[str]) -> NDArray[np.bool_]:
        """(N,) True for samples whose patient is not withdrawn.

        A record, such as the line of a table, stands for the patient only where the source names
        none, now or when the patient withdrew: in a table that grows it may be another's.
        """
        return np.array(
            [
                patient not in self.patients
                and record not in (self.records if record == patient else self.nameless)
                for record, patient in zip(records, patients, strict=True)
            ],
            np.bool_,
        )

    def allowed_at(self, site: SiteFolder, pseudonyms: Sequence[str]) -> NDArray[np.bool_]:
        """(N,) True for the rows of the site's `private.h5` that may be encoded."""
        if not self.pseudonyms:
            return np.ones(len(pseudonyms), np.bool_)
        rows = site_people(site)
        allowed = self.allowed([row["record"] for row in rows], [row["patient"] for row in rows])
        withdrawn = {row["pseudonym"] for row, ok in zip(rows, allowed, strict=True) if not ok}
        withdrawn |= self.pseudonyms
        return np.array([pseudonym not in withdrawn for pseudonym in pseudonyms], np.bool_)


def describe_withdrawn(samples: int) -> str:
    """'3 samples of patients who withdrew'."""
    return f"{plural(samples, 'sample')} of patients who withdrew"
