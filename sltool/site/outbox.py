"""The finished shards in a site's outbox. Imports no torch: shipping needs no model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sltool.errors import StageOrderError
from sltool.site.stage_records import EncodedRecord, read_record
from sltool.study.layout import SiteFolder


def outbox_shards(site: SiteFolder) -> list[Path]:
    """The finished shards of a site.

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
    return [site.outbox / name for name in record["shards"]]


def is_complete(site: SiteFolder, shards: Sequence[str]) -> bool:
    """Whether all shards of these names lie in the outbox."""
    return all((site.outbox / name).is_file() for name in shards)
