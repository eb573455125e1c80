"""What `audit.json` says and of which shards: all that `ship` reads, without importing torch."""

from __future__ import annotations

from typing_extensions import TypedDict

from sltool.files import sha256
from sltool.shard.reader import read_manifest
from sltool.site.outbox import outbox_shards
from sltool.study.layout import SiteFolder, StudyFolder
from sltool.study.schema import Study

DAMAGED = "run `sltool audit --force`"


class Noise(TypedDict):
    clip: float | None
    sd: float


class AuditSubject(TypedDict):
    """What was audited; an audit is not valid for shards that differ in any of these.

    Attributes:
        encoding: the encoding digest.
        privacy_layer: hex SHA-256 of `privacy-layer.safetensors`.
        private: hex SHA-256 of `private.h5`, which contains the site's samples and its seed.
        payloads: shard name -> SHA-256 of its payload, which does not change when the shard is
            signed again.
    """

    encoding: str
    privacy_layer: str
    private: str
    noise: Noise
    payloads: dict[str, str]


def audit_subject(folder: StudyFolder, study: Study, site: SiteFolder) -> AuditSubject:
    """The identity of the shards that are now in the outbox.

    Raises:
        StageOrderError: `client-encode` has not finished.
    """
    shards = outbox_shards(site)
    return AuditSubject(
        encoding=study.encoding_digest(folder.privacy_layer),
        privacy_layer=sha256(folder.privacy_layer),
        private=sha256(site.private),
        noise=Noise(clip=study.encoding.clip, sd=study.encoding.noise),
        payloads={path.name: read_manifest(path)[0].payload.sha256 for path in shards},
    )


class FigureRecord(TypedDict):
    """A figure with its 95 % interval over held-out patients."""

    value: float
    low: float
    high: float


class AuditRecord(TypedDict):
    """The keys of `audit.json` that are read back; the file has more.

    `attack` is the strongest attacker, `leak` its leak. `linkage_top1` is the greater of the rates
    by another view and by another sample; `exact_recovery` is the greatest of any attacker.
    """

    format: int
    site: str
    budget: str
    bound: AuditSubject
    attack: str
    leak: FigureRecord
    linkage_top1: FigureRecord
    exact_recovery: FigureRecord
