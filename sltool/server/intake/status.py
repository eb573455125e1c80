"""The facts for `sltool status`: shards that arrived, are missing, or wait for approval."""

from __future__ import annotations

import math
import os
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from sltool.accounting import Release, epsilon, is_available
from sltool.files import read_json
from sltool.machine import CTRL_C, TERMINATED
from sltool.server.intake.inbox import REASON, waiting
from sltool.server.intake.withdrawals import RUNS
from sltool.shard.manifest import Manifest
from sltool.shard.reader import read_manifest
from sltool.study.layout import PLAIN, RunFolder, StudyFolder
from sltool.study.next_step import NextStep
from sltool.study.partition_record import read_partition


@dataclass(frozen=True)
class Arrived:
    """The accepted shards and samples of one site and split, as counts."""

    site: str
    split: str
    shards: int
    samples: int


@dataclass(frozen=True)
class Gap:
    """Sequence numbers below the highest accepted one whose shards have not been accepted."""

    site: str
    split: str
    missing: list[int]

    def __str__(self) -> str:
        sequences = ", ".join(map(str, self.missing[:10])) + (", ..." if self.missing[10:] else "")
        return f"site {self.site}, {self.split}: shard {sequences} has not been accepted yet"


@dataclass(frozen=True)
class AcceptedRisk:
    """Shards that a site shipped although the study's `privacy` section forbids it, and why."""

    site: str
    reason: str
    refusal: str
    shards: int


@dataclass(frozen=True)
class Status:
    """The status; `quarantined`, `rejected` and `withdrawals` have the record of each file.

    Attributes:
        encodings: maps each site to the encoding digests of its accepted shards.
        division: how `partition` divided the samples, where that was done in this folder, else ''.
        epsilon: of the feature maps of one record in one encoding, by the manifests and for
            `accounting.DELTA`; None if any were not clipped or had no noise.
    """

    arrived: list[Arrived]
    gaps: list[Gap]
    accepted_risks: list[AcceptedRisk]
    waiting: int
    quarantined: list[dict[str, Any]]
    rejected: list[dict[str, Any]]
    withdrawals: list[dict[str, Any]]
    runs: list[str]
    encodings: dict[str, list[str]]
    next: NextStep
    epsilon: float | None
    division: str = ""

    def document(self) -> dict[str, Any]:
        """As JSON, where `quarantined` has the key `held`."""
        keys = {"quarantined": "held"}
        return {
            keys.get(name, name): value for name, value in asdict(self).items() if name != "next"
        }


def read_status(folder: StudyFolder) -> Status:
    """Read the status from `server/` and `partition.json`, without changing anything."""
    manifests = _accepted(folder)
    partition = read_partition(folder)
    waits = len(waiting(folder))
    quarantined = _records(folder.quarantine, REASON, ReasonRecord)
    runs = folder.run_names()
    return Status(
        arrived=[
            Arrived(site, split, len(accepted), sum(manifest.samples for manifest in accepted))
            for (site, split), accepted in sorted(manifests.items())
        ],
        gaps=_gaps(manifests),
        accepted_risks=_risks(manifests),
        waiting=waits,
        quarantined=quarantined,
        rejected=_records(folder.rejected, REASON, ReasonRecord),
        withdrawals=_records(folder.accepted, RUNS, WithdrawalRecord),
        runs=runs,
        epsilon=_epsilon(manifests),
        encodings=_encodings(manifests),
        next=_next(folder, quarantined, waits, bool(manifests), runs),
        division=partition["division"] if partition else "",
    )


def _encodings(manifests: dict[tuple[str, str], list[Manifest]]) -> dict[str, list[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for (site, _), accepted in manifests.items():
        found[site] |= {manifest.content.encoding for manifest in accepted}
    return {site: sorted(digests) for site, digests in sorted(found.items())}


def _next(
    folder: StudyFolder,
    quarantined: list[dict[str, Any]],
    waits: int,
    accepted: bool,
    runs: list[str],
) -> NextStep:
    """What the server does next."""
    if quarantined:
        name = quarantined[0]["file"]
        return NextStep(f"sltool queue approve {name}", "after asking the site: it looks wrong")
    if not accepted and not waits:
        return NextStep("sltool server-train --watch", "no shard has arrived; this waits for them")
    if waits or not runs:
        return NextStep("sltool server-train", "takes in what has arrived, and trains on it")
    for run in map(folder.run, runs):
        if not run.model.is_file():
            return NextStep(f"sltool server-train --run {run.name}", "the run has not finished")
        if signal := _stopped_by(run):
            return NextStep(f"sltool server-train --run {run.name}", f"{signal} stopped the run")
        if not run.metrics(PLAIN).is_file():
            return NextStep(f"sltool evaluate --run {run.name}", "the run was not evaluated yet")
    return NextStep("sltool report", "every run was evaluated")


def _stopped_by(run: RunFolder) -> str:
    """The signal that has ended the run's last session; '' if none has."""
    lines = run.log.read_text(encoding="utf-8").splitlines() if run.log.is_file() else []
    last = lines[-1] if lines else ""
    signals = (name for name in (CTRL_C, TERMINATED) if last.endswith(f"stopped: {name}"))
    return next(signals, "")


def gaps(folder: StudyFolder) -> list[Gap]:
    """The gaps in the sequence numbers of the accepted shards."""
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
        sequences = {manifest.place.sequence for manifest in accepted}
        missing = sorted(set(range(max(sequences))) - sequences)
        if missing:
            found.append(Gap(site, split, missing))
    return found


def _risks(manifests: dict[tuple[str, str], list[Manifest]]) -> list[AcceptedRisk]:
    counts = Counter(
        (manifest.place.site, manifest.accepted_risk.reason, manifest.accepted_risk.refusal)
        for accepted in manifests.values()
        for manifest in accepted
        if manifest.accepted_risk is not None
    )
    return [AcceptedRisk(*risk, shards) for risk, shards in sorted(counts.items())]


def _epsilon(manifests: dict[tuple[str, str], list[Manifest]]) -> float | None:
    contents = [manifest.content for accepted in manifests.values() for manifest in accepted]
    releases = [Release(each.noise.clip, each.noise.sd, each.views) for each in contents]
    weakest = max(releases, key=lambda release: release.mu_squared, default=None)
    if weakest is None or not math.isfinite(weakest.mu_squared) or not is_available():
        return None
    return epsilon([weakest])


class ReasonRecord(TypedDict):
    """The keys that are read of the record beside a refused or quarantined file."""

    reason: str


class WithdrawalRecord(TypedDict):
    """The keys that are read of the record beside a withdrawal."""

    runs: list[str]


def _records(folder: Path, suffix: str, kind: type[Any]) -> list[dict[str, Any]]:
    """The records in a folder, each with the name of its file."""
    hint = "delete the record; the file beside it stays"
    return [
        {
            **read_json(path, kind, "a record of the queue", hint),
            "file": path.name.removesuffix(suffix),
        }
        for path in sorted(folder.glob(f"*{suffix}"))
        # lexists: a dangling link that was refused is listed, too.
        if os.path.lexists(path.with_name(path.name.removesuffix(suffix)))
    ]
