"""The finished shards in a site's outbox. Imports no torch: shipping needs no model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sltool.errors import StageOrderError
from sltool.files import sha256
from sltool.shard.reader import read_manifest
from sltool.site.stage_records import BatchRecord, EncodedRecord, ShippedRecord, read_record
from sltool.study.layout import SiteFolder


def outbox_shards(site: SiteFolder) -> list[Path]:
    """The finished shards of a site, without those that were shipped and are no longer there.

    Raises:
        StageOrderError: `client-encode` has not finished.
    """
    record = read_record(site.encoded, EncodedRecord)
    if not record or not is_complete(site, record["shards"]):
        raise StageOrderError(
            f"site {site.name} has nothing to ship",
            where=site.outbox,
            hint=f"run `sltool client-encode --site {site.name}` first",
        )
    return [path for name in record["shards"] if (path := site.outbox / name).is_file()]


def outbox_cases(site: SiteFolder) -> list[Path]:
    """The shards of cases to predict, without those that were shipped and are no longer there."""
    record = read_record(site.encoded_cases, EncodedRecord)
    names = record["shards"] if record else []
    return [path for name in names if (path := site.outbox / name).is_file()]


def is_complete(site: SiteFolder, shards: Sequence[str]) -> bool:
    """Whether all shards of these names lie in the outbox, or were shipped."""
    missing = [name for name in shards if not (site.outbox / name).is_file()]
    return not missing or set(missing) <= shipped_names(site)


def shipped_names(site: SiteFolder) -> set[str]:
    """The names of all files that were shipped, to any destination."""
    record = read_record(site.shipped, ShippedRecord) or {}
    return {name for files in record.values() for name in files}


def was_shipped(site: SiteFolder, name: str) -> bool:
    """Whether the outbox's file `name` was shipped, to any destination, as it is now."""
    record = read_record(site.shipped, ShippedRecord) or {}
    sent = {files[name]["outbox"] for files in record.values() if name in files}
    path = site.outbox / name
    return bool(sent) and (not path.is_file() or sha256(path) in sent)


def last_batch(encoded: Path) -> list[str]:
    """The names of the shards that were encoded last, by the record in the file `encoded`."""
    record = read_record(encoded, EncodedRecord)
    batches = [batch["shards"] for batch in batches_of(record)] if record else []
    return next((shards for shards in reversed(batches) if shards), [])


def batches_of(record: EncodedRecord) -> list[BatchRecord]:
    """The shards in the order of their encoding; a record of an earlier version has one batch."""
    alone = BatchRecord(samples=record["samples"], shards=record["shards"])
    return record.get("batches", [alone])


def with_batches(record: EncodedRecord, batches: list[BatchRecord]) -> EncodedRecord:
    """The record of these batches alone."""
    shards = [name for batch in batches for name in batch["shards"]]
    digests = record.get("digests", {})
    return {
        **record,
        "samples": sum(batch["samples"] for batch in batches),
        "shards": shards,
        "batches": batches,
        "digests": {name: digests[name] for name in shards if name in digests},
    }


def shard_digest(site: SiteFolder, record: EncodedRecord, name: str) -> str:
    """The digest of a finished shard's manifest, from the outbox or, once it is gone, the record.

    Raises:
        StageOrderError: neither has it.
    """
    path = site.outbox / name
    if path.is_file():
        return read_manifest(path)[0].digest
    if name not in record.get("digests", {}):
        raise StageOrderError(
            f"the shard {name} is needed to continue the site's series",
            where=site.outbox,
            hint="copy it back from where it was shipped to",
        )
    return record["digests"][name]


def is_newer(path: Path, than: Path) -> bool:
    """Whether `path` is there, and was written after `than`, which is."""
    return path.is_file() and path.stat().st_mtime_ns > than.stat().st_mtime_ns
