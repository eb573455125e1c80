"""`sites/SITE/withdrawn.csv`: who withdrew, so that no stage at the site encodes him again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sltool.files import read_csv, write_csv
from sltool.study.layout import SiteFolder, StudyFolder

COLUMNS = ("pseudonym", "record", "patient")
# Of `pseudonyms.csv`.
PRIVATE_COLUMNS = ("pseudonym", "group", "split", "record", "patient", "examination")
RESTORE = "bring the table back from a backup: without it, patients who withdrew are encoded again"


def read_people(path: Path, columns: Sequence[str] = COLUMNS) -> list[dict[str, str]]:
    """The rows of a table that leads to patients; [] where there is none.

    Raises:
        BadDataError: the table lacks one of `columns`, or a value in it.
        StorageError: it cannot be read.
    """
    return read_csv(path, columns, RESTORE) if path.is_file() else []


def people_of(site: SiteFolder) -> list[dict[str, str]]:
    """`pseudonym, record, patient` of every sample that the site ever had, each pseudonym once."""
    tables = (site.pseudonyms, site.former_pseudonyms, site.withdrawn)
    rows = [row for table in tables for row in read_people(table)]
    return list({row["pseudonym"]: row for row in rows}.values())


def keep_former(site: SiteFolder) -> None:
    """Keep the pseudonyms that `partition` is about to replace: they may have been shipped."""
    former = read_people(site.former_pseudonyms, PRIVATE_COLUMNS[:1])
    replaced = read_people(site.pseudonyms)
    if replaced:
        rows = {row["pseudonym"]: row for row in [*former, *replaced]}
        write_csv(site.former_pseudonyms, rows.values(), PRIVATE_COLUMNS)


def add_withdrawn(site: SiteFolder, rows: Iterable[dict[str, str]]) -> None:
    """Enter rows of `people_of` into the site's list."""
    listed = {row["pseudonym"]: row for row in read_people(site.withdrawn)}
    listed |= {row["pseudonym"]: row for row in rows}
    table = ({column: row[column] for column in COLUMNS} for row in listed.values())
    write_csv(site.withdrawn, table, COLUMNS)


@dataclass(frozen=True)
class Withdrawals:
    """Who withdrew at any site of this folder: one patient is the same at all of them."""

    pseudonyms: frozenset[str]
    records: frozenset[str]
    patients: frozenset[str]

    @classmethod
    def read(cls, folder: StudyFolder) -> Withdrawals:
        """All lists in the study's folder.

        Raises:
            BadDataError: a list is damaged.
        """
        rows = [row for path in folder.withdrawn_lists() for row in read_people(path)]
        return cls(*(frozenset(row[column] for row in rows) for column in COLUMNS))

    def keeps(self, records: Sequence[str], patients: Sequence[str]) -> NDArray[np.bool_]:
        """(N,) which samples neither are a withdrawn record nor belong to a withdrawn patient."""
        pairs = zip(records, patients, strict=True)
        return np.array(
            [one not in self.records and who not in self.patients for one, who in pairs], np.bool_
        )

    def keeps_at(self, site: SiteFolder, pseudonyms: Sequence[str]) -> NDArray[np.bool_]:
        """(N,) which of the rows of the site's `private.h5` may be encoded."""
        if not self.pseudonyms:
            return np.ones(len(pseudonyms), np.bool_)
        rows = people_of(site)
        kept = self.keeps([row["record"] for row in rows], [row["patient"] for row in rows])
        gone = {row["pseudonym"] for row, keep in zip(rows, kept, strict=True) if not keep}
        gone |= self.pseudonyms
        return np.array([one not in gone for one in pseudonyms], np.bool_)


def told(samples: int) -> str:
    """'3 samples of patients who withdrew'."""
    return f"{samples} sample{'' if samples == 1 else 's'} of patients who withdrew"
