"""`withdraw`: a patient's rows may not be used any more."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sltool.errors import BadDataError, StageOrderError
from sltool.files import read_csv
from sltool.layout import SiteFolder
from sltool.shard.withdrawal import write_withdrawal
from sltool.site.encode import site_key
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
    if not site.pseudonyms.exists():
        raise StageOrderError(
            f"site {site.name} has no pseudonyms yet",
            where=site.pseudonyms,
            hint=f"run `sltool partition --site {site.name}` first",
        )
    hint = "bring the file back from your backup"
    table = read_csv(site.pseudonyms, ("pseudonym", "patient"), hint)
    found = [row["pseudonym"] for row in table if row["patient"] == patient]
    if not found:
        raise BadDataError(
            f"site {site.name} has no patient of that id",
            where=site.pseudonyms,
            expected="an id as it stands in the column `patient`",
        )
    return found
