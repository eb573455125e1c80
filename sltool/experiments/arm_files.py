"""The files of an arm: `predictions.csv`, `history.csv` and, written last, `arm.json`.

Statistics, pictures and pages are made from these files alone, so they can be made again at any
time, and an interrupted comparison resumes after the last finished arm.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from sltool.files import read_json, write_json
from sltool.study.layout import PLAIN, Question, RunFolder


@dataclass(frozen=True)
class TrainingSummary:
    """How an arm was trained; an equation has 0 epochs."""

    samples: int
    epochs: int = 0
    best_epoch: int = 0


class CellAudit(TypedDict):
    """A cell's `audit.json`: the main figures of the audit of its largest site."""

    budget: str
    attack: str
    converged: bool
    figures: dict[str, float]


@dataclass(frozen=True)
class FinishedArm:
    """A finished arm of one seed of one cell.

    Attributes:
        sweep: the swept settings of the cell, such as {'cut': '2'}; {} outside a sweep.
        seconds: wall time of the arm alone.
        facts: the cell's counts, digests and settings, or a run's settings.
        records: the cell's `records.csv`; None for runs of one study, which share pseudonyms.
        audit: what an attacker gets from the shards of this cell; None: not audited.
    """

    arm: str
    sweep: dict[str, str]
    seed: int
    outcome: TrainingSummary
    seconds: float
    folder: Path
    facts: dict[str, Any]
    question: Question = PLAIN
    records: Path | None = None
    audit: CellAudit | None = None

    @property
    def predictions(self) -> Path:
        return RunFolder(self.arm, self.folder).predictions(self.question)

    @property
    def history(self) -> Path:
        return self.folder / "history.csv"


def finish(folder: Path, outcome: TrainingSummary, seconds: float) -> None:
    """Mark the arm in `folder` as finished."""
    write_json(folder / "arm.json", {**asdict(outcome), "seconds": round(seconds, 3)})


def is_finished(folder: Path) -> bool:
    """Whether the arm in `folder` has been finished."""
    return (folder / "arm.json").is_file()


class ArmRecord(TypedDict):
    """`arm.json`."""

    samples: int
    epochs: int
    best_epoch: int
    seconds: float


def read_audit(path: Path) -> CellAudit:
    """A cell's `audit.json`; raises `BadDataError` if it is damaged."""
    hint = "delete the file and run the comparison again"
    return read_json(path, CellAudit, "the audit of a cell", hint)


def read_finished(
    folder: Path,
    arm: str,
    sweep: dict[str, str],
    seed: int,
    facts: dict[str, Any],
    records: Path,
    audit: CellAudit | None = None,
) -> FinishedArm:
    """A finished arm, as recorded by `finish`.

    Raises:
        BadDataError: the record is damaged.
    """
    path = folder / "arm.json"
    hint = "delete the file and run the comparison again"
    record = read_json(path, ArmRecord, "the record of a finished arm", hint)
    outcome = TrainingSummary(record["samples"], record["epochs"], record["best_epoch"])
    return FinishedArm(
        arm,
        sweep,
        seed,
        outcome,
        record["seconds"],
        folder,
        facts,
        records=records,
        audit=audit,
    )
