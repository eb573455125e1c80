"""`withdraw`: a patient's rows may not be used any more."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from sltool.errors import BadDataError, StageOrderError, StorageError
from sltool.layout import SiteFolder
from sltool.shard.withdrawal import write_withdrawal
from sltool.site.enrol import site_key
from sltool.study import Study


@dataclass(frozen=True)
class Withdrawn:
    """The signed file in the outbox, and how many samples it names."""

    site: str
    samples: int
    file: Path


def withdraw(site: SiteFolder, study: Study, patient: str) -> Withdrawn:
    """Write a signed withdrawal of all samples of `patient` to the site's outbox.

    Args:
        patient: as in the column `patient` of `sites/SITE/pseudonyms.csv`.

    Raises:
        StageOrderError: the site has no pseudonyms yet.
        BadDataError: no such patient at this site.
    """
    study.check_sites([site.name])
    pseudonyms = _pseudonyms(site, patient)
    path = write_withdrawal(site.outbox, study, site.name, pseudonyms, site_key(site, study))
    return Withdrawn(site.name, len(pseudonyms), path)


def _pseudonyms(site: SiteFolder, patient: str) -> list[str]:
    try:
        with site.pseudonyms.open(encoding="utf-8", newline="") as file:
            found = [row["pseudonym"] for row in csv.DictReader(file) if row["patient"] == patient]
    except FileNotFoundError as error:
        raise StageOrderError(
            f"site {site.name} has no pseudonyms yet",
            where=site.pseudonyms,
            hint=f"run `sltool partition --site {site.name}` first",
        ) from error
    except OSError as error:
        raise StorageError.of(error, site.pseudonyms, "read") from error
    if not found:
        raise BadDataError(
            f"site {site.name} has no patient of that id",
            where=site.pseudonyms,
            expected="an id as it stands in the column `patient`",
        )
    return found
