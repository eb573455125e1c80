"""`audit`: run every attacker on a site's own shards."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from sltool.models.privacy_layer_file import Fitted, fitted_on
from sltool.progress import Progress
from sltool.registry import Entry, attackers
from sltool.site.audit import measures
from sltool.site.audit.attacker import Budget, Inference, Pairs, Reconstructor, Scene
from sltool.site.audit.evidence import Evidence, gather
from sltool.site.audit.judge import Judge
from sltool.site.audit.measures import Figure
from sltool.site.audit.record import AuditSubject, audit_subject
from sltool.site.audit.scene import make_scene
from sltool.site.guarantee import Guarantee, stated_guarantee
from sltool.study.layout import StudyFolder
from sltool.study.schema import Study

Array = NDArray[Any]

# An attack has converged if the last doubling of its effort increased L by at most this.
GAIN = 0.02
# Most samples of the distance correlation, whose cost is quadratic.
CORRELATED = 500


@dataclass(frozen=True)
class AttackResult:
    """One attacker's result.

    Attributes:
        unit: of the efforts.
        knowledge: `Attacker.knowledge` with the number of pairs filled in.
        figures: 'leak', 'exact_recovery', and for images 'ssim', 'psnr'.
        r2: of each column of a table.
        curve: (effort, L) of each attempt.
        rebuilt: (m, *shape), of the first m held-out samples.
    """

    name: str
    summary: str
    unit: str
    knowledge: str
    figures: dict[str, Figure]
    r2: dict[str, float | None]
    curve: list[tuple[int, float]]
    seconds: float
    rebuilt: Array

    @property
    def converged(self) -> bool:
        """Whether more effort would probably not have increased the leak."""
        return len(self.curve) > 1 and self.curve[-1][1] - self.curve[-2][1] <= GAIN


@dataclass(frozen=True)
class AuditResult:
    """The result of an audit.

    Attributes:
        attacks: the strongest first.
        baselines: the same figures for guesses without a shard.
        truth: the held-out samples.
        left_out: attacker -> why it did not run.
        fitted: what the privacy layer was fitted on; None if it was drawn.
        guarantee: the differential privacy of the shards; None: the study asks for none.
    """

    site: str
    subject: AuditSubject
    evidence: Evidence
    scene: Scene
    truth: Pairs
    attacks: list[AttackResult]
    baselines: dict[str, dict[str, Figure]]
    inferences: list[Inference]
    distance_correlation: float
    left_out: dict[str, str]
    fitted: Fitted | None
    seconds: float
    guarantee: Guarantee | None


def audit(
    folder: StudyFolder,
    study: Study,
    site_name: str,
    budget: Budget,
    auxiliary: Path | None,
    device: torch.device,
    progress: Progress,
) -> AuditResult:
    """Attack the shards in `outbox/SITE`.

    Args:
        auxiliary: a folder of public images, for attackers who know no patient.

    Raises:
        StageOrderError: nothing is encoded.
        BadDataError: there are too few samples, patients or public images.
    """
    started = time.monotonic()
    study.check_sites([site_name])
    site = folder.site(site_name)
    subject = audit_subject(folder, study, site)
    evidence = gather(folder, study, site, budget)
    scene, truth = make_scene(folder, study, evidence, budget, auxiliary, device)
    judge = Judge(scene, truth)
    attacks: list[AttackResult] = []
    inferences: list[Inference] = []
    left_out = {}
    entries = attackers.entries()
    with progress.bar(f"audit {site_name}", len(entries)) as advance:
        for entry in entries:
            attacker = entry.object()
            reason = attacker.skip_reason(scene)
            with torch.random.fork_rng(devices=[]):
                # torch takes 64 bits; the seed of a real site has 128.
                torch.manual_seed(scene.seed % 2**63)
                if reason:
                    left_out[entry.name] = reason
                elif isinstance(attacker, Reconstructor):
                    attacks.append(_attack(entry, attacker, scene, judge))
                else:
                    inferences += attacker.infer(scene, truth)
            advance(1)
    attacks.sort(key=lambda attack: attack.figures["leak"].value, reverse=True)
    correlated = slice(CORRELATED)
    return AuditResult(
        site=site_name,
        subject=subject,
        evidence=evidence,
        scene=scene,
        truth=truth,
        attacks=attacks,
        baselines=judge.baselines(),
        inferences=inferences,
        distance_correlation=measures.distance_correlation(
            truth.inputs[correlated], truth.maps[correlated]
        ),
        left_out=left_out,
        fitted=fitted_on(folder.privacy_layer),
        seconds=time.monotonic() - started,
        guarantee=stated_guarantee(folder, study, site_name, progress),
    )


def _attack(entry: Entry[Any], attacker: Reconstructor, scene: Scene, judge: Judge) -> AttackResult:
    started = time.monotonic()
    curve = []
    for attempt in attacker.rebuild(scene):
        curve.append((attempt.effort, judge.leak(attempt.rebuilt)))
    return AttackResult(
        name=entry.name,
        summary=entry.summary,
        unit=attacker.unit,
        knowledge=attacker.knowledge.format(known=len(scene.fit) + len(scene.check)),
        figures=judge.figures(attempt.rebuilt),
        r2=judge.r2(attempt.rebuilt),
        curve=curve,
        seconds=time.monotonic() - started,
        rebuilt=attempt.rebuilt,
    )
