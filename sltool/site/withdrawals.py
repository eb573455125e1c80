"""`sites/SITE/withdrawn.csv`: who withdrew, so that no stage at the site encodes him again."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sltool.errors import BadDataError, StorageError
from sltool.files import write_text
from sltool.layout import SiteFolder, StudyFolder

COLUMNS = ("pseudonym", "record", "patient")
PRIVATE_COLUMNS = ("pseudonym", "group", "split", "record", "patient", "examination")


def read_people(path: Path, columns: Sequence[str] = COLUMNS) -> list[dict[str, str]]:
    """The rows of a table that leads to patients; [] where there is none.

    Raises:
        BadDataError: the table lacks one of `columns`, or a value in it.
        StorageError: it cannot be read.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            rows, present = list(reader), reader.fieldnames or ()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError.of(error, path, "read") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise _damaged(path, columns) from error
    cut_short = any(row[column] is None for row in rows for column in present)
    if cut_short or not set(columns) <= set(present):
        raise _damaged(path, columns)
    return rows


def write_people(path: Path, columns: Sequence[str], rows: Iterable[dict[str, str]]) -> None:
    """Publish such a table, readable for its owner alone."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue(), mode=0o600)


def _damaged(path: Path, columns: Sequence[str]) -> BadDataError:
    return BadDataError(
        "the table is damaged",
        where=path,
        expected=f"a CSV table with the columns {', '.join(columns)}",
        hint="bring it back from a backup: without it, patients who withdrew are encoded again",
    )


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
        write_people(site.former_pseudonyms, PRIVATE_COLUMNS, rows.values())


def add_withdrawn(site: SiteFolder, rows: Iterable[dict[str, str]]) -> None:
    """Enter rows of `people_of` into the site's list."""
    listed = {row["pseudonym"]: row for row in read_people(site.withdrawn)}
    listed |= {row["pseudonym"]: row for row in rows}
    write_people(site.withdrawn, COLUMNS, listed.values())


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
