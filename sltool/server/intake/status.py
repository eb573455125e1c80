"""What `sltool status` shows: what has arrived, what is missing, what waits for a person."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from sltool.files import read_json
from sltool.server.intake.inbox import REASON, waiting
from sltool.server.intake.withdrawals import RUNS
from sltool.shard.manifest import Manifest
from sltool.shard.reader import read_manifest
from sltool.study.layout import StudyFolder


@dataclass(frozen=True)
class Arrived:
    """The accepted shards of one site and split."""

    site: str
    split: str
    shards: int
    samples: int


@dataclass(frozen=True)
class Gap:
    """Numbers below the greatest one that have not been accepted."""

    site: str
    split: str
    missing: list[int]

    def __str__(self) -> str:
        numbers = ", ".join(map(str, self.missing[:10])) + (", ..." if self.missing[10:] else "")
        return f"site {self.site}, {self.split}: shard {numbers} has not been accepted yet"


@dataclass(frozen=True)
class AcceptedRisk:
    """Shards that a site shipped against the study's `privacy` section, and why."""

    site: str
    reason: str
    refusal: str
    shards: int


@dataclass(frozen=True)
class Status:
    """All of it; held, rejected and withdrawals are the records beside those files."""

    arrived: list[Arrived]
    gaps: list[Gap]
    accepted_risks: list[AcceptedRisk]
    waiting: int
    held: list[dict[str, Any]]
    rejected: list[dict[str, Any]]
    withdrawals: list[dict[str, Any]]
    runs: list[str]

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def read_status(folder: StudyFolder) -> Status:
    """What lies in `server/`; nothing is changed there."""
    manifests = _accepted(folder)
    return Status(
        arrived=[
            Arrived(site, split, len(found), sum(one.samples for one in found))
            for (site, split), found in sorted(manifests.items())
        ],
        gaps=_gaps(manifests),
        accepted_risks=_risks(manifests),
        waiting=len(waiting(folder)),
        held=_records(folder.held, REASON, ReasonRecord),
        rejected=_records(folder.rejected, REASON, ReasonRecord),
        withdrawals=_records(folder.accepted, RUNS, WithdrawalRecord),
        runs=folder.run_names(),
    )


def gaps(folder: StudyFolder) -> list[Gap]:
    """The gaps in the accepted shards' numbers."""
    return _gaps(_accepted(folder))


def _accepted(folder: StudyFolder) -> dict[tuple[str, str], list[Manifest]]:
    found: dict[tuple[str, str], list[Manifest]] = defaultdict(list)
    for path in folder.accepted.glob("*.h5"):
        manifest, _ = read_manifest(path)
        found[manifest.place.site, manifest.place.split].append(manifest)
    return found


def _gaps(manifests: dict[tuple[str, str], list[Manifest]]) -> list[Gap]:
    found = []
    for (site, split), accepted in sorted(manifests.items()):
        numbers = {one.place.sequence for one in accepted}
        missing = sorted(set(range(max(numbers))) - numbers)
        if missing:
            found.append(Gap(site, split, missing))
    return found


def _risks(manifests: dict[tuple[str, str], list[Manifest]]) -> list[AcceptedRisk]:
    taken = Counter(
        (one.place.site, one.accepted_risk.reason, one.accepted_risk.refusal)
        for accepted in manifests.values()
        for one in accepted
        if one.accepted_risk is not None
    )
    return [AcceptedRisk(*broadcast, shards) for broadcast, shards in sorted(taken.items())]


class ReasonRecord(TypedDict):
    """What is read of the record beside a refused or held file."""

    reason: str


class WithdrawalRecord(TypedDict):
    """What is read of the record beside a withdrawal."""

    runs: list[str]


def _records(folder: Path, suffix: str, kind: type[Any]) -> list[dict[str, Any]]:
    """The records in a folder, with the name of the file that each is about."""
    hint = "delete the record; the file beside it stays"
    return [
        {
            **read_json(path, kind, "a record of the queue", hint),
            "file": path.name.removesuffix(suffix),
        }
        for path in sorted(folder.glob(f"*{suffix}"))
        # A link that leads nowhere is refused, and listed, too.
        if os.path.lexists(path.with_name(path.name.removesuffix(suffix)))
    ]
