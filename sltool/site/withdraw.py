"""`withdraw`: a patient's rows may not be used any more."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sltool.errors import BadDataError, StageOrderError
from sltool.files import remove
from sltool.shard.withdrawal import write_withdrawal
from sltool.site.enrol import site_key
from sltool.site.withdrawals import add_withdrawn, people_of
from sltool.study.layout import SiteFolder
from sltool.study.schema import Study


@dataclass(frozen=True)
class WithdrawalResult:
    """The signed file in the outbox, and how many samples it names.

    Attributes:
        encode_again: the outbox held the samples and nothing had been shipped, so its shards are
            not shipped any more.
    """

    site: str
    samples: int
    file: Path
    encode_again: bool


def withdraw(site: SiteFolder, study: Study, patient: str) -> WithdrawalResult:
    """List `patient` in `withdrawn.csv`, and sign a withdrawal of all samples to the outbox.

    That is under every pseudonym that the samples ever had.

    Args:
        patient: as in the column `patient` of `sites/SITE/pseudonyms.csv`.

    Raises:
        StageOrderError: the site has no pseudonyms yet.
        BadDataError: no such patient at this site.
    """
    study.check_sites([site.name])
    key = site_key(site, study)
    rows = _rows_of(site, patient)
    # First, so that a crash in between leaves a patient who is encoded no more.
    add_withdrawn(site, rows)
    pseudonyms = [row["pseudonym"] for row in rows]
    path = write_withdrawal(site.outbox, study, site.name, pseudonyms, key)
    return WithdrawalResult(site.name, len(pseudonyms), path, _retract(site))


def _retract(site: SiteFolder) -> bool:
    """Keep an encoding that nobody has seen yet from being shipped."""
    if site.shipped.is_file() or not site.encoded.is_file():
        return False
    remove(site.encoded)
    return True


def _rows_of(site: SiteFolder, patient: str) -> list[dict[str, str]]:
    people = people_of(site)
    if not people:
        raise StageOrderError(
            f"site {site.name} has no pseudonyms yet",
            where=site.pseudonyms,
            hint=f"run `sltool partition --site {site.name}` first",
        )
    found = [row for row in people if row["patient"] == patient]
    if not found:
        raise BadDataError(
            f"site {site.name} has no patient of that id",
            where=site.pseudonyms,
            expected="an id as it stands in the column `patient`",
        )
    return found
