"""`withdraw`: stop all use of a patient's samples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sltool.errors import BadDataError, StageOrderError
from sltool.files import remove, sha256, write_json
from sltool.shard.withdrawal import write_withdrawal
from sltool.site import log
from sltool.site.enrol import site_key
from sltool.site.outbox import batches_of, was_shipped, with_batches
from sltool.site.stage_records import EncodedRecord, read_record
from sltool.site.withdrawals import add_withdrawn, site_people
from sltool.study.layout import SiteFolder
from sltool.study.schema import Study


@dataclass(frozen=True)
class WithdrawalResult:
    """The signed file in the outbox, and how many samples it names.

    Attributes:
        encode_again: the outbox contained shards that had not been shipped. They are no longer
            shipped; the site has to be encoded again.
    """

    site: str
    samples: int
    file: Path
    encode_again: bool


def withdraw(site: SiteFolder, study: Study, patient: str) -> WithdrawalResult:
    """Add `patient` to `withdrawn.csv`, and write a signed withdrawal to the outbox.

    The withdrawal names all samples of the patient, under every pseudonym that they ever had.

    Args:
        patient: as in the column `patient` of `sites/SITE/pseudonyms.csv`.

    Raises:
        StageOrderError: the site has no pseudonyms yet.
        BadDataError: no such patient at this site.
    """
    study.check_sites([site.name])
    key = site_key(site, study)
    rows = _patient_rows(site, patient)
    # First, so that after a crash in between the patient is already excluded from encoding.
    add_withdrawn(site, rows)
    pseudonyms = [row["pseudonym"] for row in rows]
    path = write_withdrawal(site.outbox, study, site.name, pseudonyms, key)
    log.append(site, "withdrew", samples=len(pseudonyms), files={path.name: sha256(path)})
    discarded = [_discard_unshipped(site, record) for record in (site.encoded, site.encoded_cases)]
    return WithdrawalResult(site.name, len(pseudonyms), path, any(discarded))


def _discard_unshipped(site: SiteFolder, encoded: Path) -> bool:
    """Stop shards that were not shipped from being shipped; True if there were any.

    A batch of which any shard was shipped stays: the server excludes its withdrawn rows.

    Args:
        encoded: the record of the shards.
    """
    record = read_record(encoded, EncodedRecord)
    if record is None:
        return False
    batches = batches_of(record)
    kept = list(batches)
    while kept and not any(was_shipped(site, name) for name in kept[-1]["shards"]):
        kept.pop()
    if len(kept) == len(batches):
        return False
    if kept:
        write_json(encoded, with_batches(record, kept))
    else:
        remove(encoded)
    return True


def _patient_rows(site: SiteFolder, patient: str) -> list[dict[str, str]]:
    people = site_people(site)
    if not people:
        raise StageOrderError(
            f"site {site.name} has no pseudonyms yet",
            where=site.pseudonyms,
            hint=f"run `sltool partition --site {site.name}` first",
        )
    found = [row for row in people if row["patient"] == patient]
    if not found:
        raise BadDataError(
            f"site {site.name} has no patient with that id",
            where=site.pseudonyms,
            expected="an id from the column `patient`",
        )
    return found
