"""`sites/SITE/releases.json`: every encoding that was shipped, for the accounting of epsilon.

A further noisy copy of a feature map is a further release of the record. The file is written before
the first byte leaves, and keeps its entries when the samples are partitioned again: the patients
stay the same. Imports no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from typing_extensions import TypedDict

from sltool.files import canonical_json, read_json, sha256, write_json
from sltool.shard.reader import read_manifest
from sltool.shard.withdrawal import SUFFIX as WITHDRAWAL
from sltool.site.outbox import outbox_shards
from sltool.site.stage_records import EncodedRecord, ShippedRecord, read_record
from sltool.study.layout import SiteFolder

LOST = "bring the file back from a backup: without it, epsilon is stated too low"


class ReleaseRecord(TypedDict):
    """An encoding that was shipped.

    Attributes:
        payloads: SHA-256 over the digests of its shards' payloads; '' if it is not known, because
            an earlier version shipped it.
        views: feature maps of each training sample.
        label_epsilon: of the labels; None: they were shipped unchanged.
    """

    payloads: str
    clip: float | None
    noise: float
    views: int
    label_epsilon: float | None


def shipped_encodings(site: SiteFolder) -> list[ReleaseRecord]:
    """The encodings that were shipped so far; one of an earlier version has no clip and no noise.

    Raises:
        BadDataError: a record is damaged.
    """
    if site.releases.is_file():
        return read_json(site.releases, list[ReleaseRecord], "the record of releases", LOST)
    if not _shipped_by_earlier_version(site):
        return []
    unknown = ReleaseRecord(payloads="", clip=None, noise=0.0, views=1, label_epsilon=None)
    return [unknown]


def with_outbox(site: SiteFolder) -> list[ReleaseRecord]:
    """The encodings that were shipped, and the one in the outbox, which is shipped next.

    Raises:
        StageOrderError: nothing is encoded.
        BadDataError: a record is damaged.
    """
    shipped = shipped_encodings(site)
    manifests = [read_manifest(path)[0] for path in outbox_shards(site)]
    payloads = _digest(manifest.payload.sha256 for manifest in manifests)
    if not manifests or any(release["payloads"] == payloads for release in shipped):
        return shipped
    encoded = read_record(site.encoded, EncodedRecord)
    content = max((manifest.content for manifest in manifests), key=lambda content: content.views)
    return [
        *shipped,
        ReleaseRecord(
            payloads=payloads,
            clip=content.noise.clip,
            noise=content.noise.sd,
            views=content.views,
            label_epsilon=encoded.get("label_epsilon") if encoded else None,
        ),
    ]


def record_release(site: SiteFolder) -> None:
    """Add the encoding in the outbox, unless it is listed; raises the errors of `with_outbox`."""
    write_json(site.releases, with_outbox(site))


def _digest(payloads: Iterable[str]) -> str:
    """A digest of the shards' payloads, which do not change when the shards are signed again."""
    return hashlib.sha256(canonical_json(sorted(payloads))).hexdigest()


def _shipped_by_earlier_version(site: SiteFolder) -> bool:
    """Whether shards that are not in the outbox any more were shipped, without this record."""
    record = read_record(site.shipped, ShippedRecord) or {}
    sent = {
        entry["outbox"]
        for files in record.values()
        for name, entry in files.items()
        if not name.endswith(WITHDRAWAL)
    }
    return bool(sent - {sha256(path) for path in site.outbox.glob("*.h5")})
