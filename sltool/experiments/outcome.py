"""What an arm leaves in its folder: `predictions.csv`, `history.csv` and, last, `arm.json`.

Statistics, figures and pages are made from these files alone, so they can be made again at any
time, and a killed comparison goes on behind the last finished arm.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sltool.errors import BadDataError, StorageError
from sltool.files import write_json, write_text
from sltool.layout import PLAIN, Question, RunFolder


@dataclass(frozen=True)
class Outcome:
    """How an arm was trained; an equation has no epochs."""

    samples: int
    epochs: int = 0
    best_epoch: int = 0


@dataclass(frozen=True)
class Finished:
    """A finished arm of one seed of one cell.

    Attributes:
        sweep: the swept settings of the cell, such as {'cut': '2'}; {} outside a sweep.
        seconds: wall time of the arm alone.
        facts: of its cell: counts, digests, settings.
        records: the cell's `records.csv`; None for runs of one study, who share their pseudonyms.
    """

    arm: str
    sweep: dict[str, str]
    seed: int
    outcome: Outcome
    seconds: float
    folder: Path
    facts: dict[str, Any]
    question: Question = PLAIN
    records: Path | None = None

    @property
    def predictions(self) -> Path:
        return RunFolder(self.arm, self.folder).predictions(self.question)

    @property
    def history(self) -> Path:
        return self.folder / "history.csv"


def finish(folder: Path, outcome: Outcome, seconds: float) -> None:
    """Mark the arm in `folder` as finished."""
    write_json(folder / "arm.json", {**asdict(outcome), "seconds": round(seconds, 3)})


def is_finished(folder: Path) -> bool:
    """Whether the arm in `folder` has been finished."""
    return (folder / "arm.json").is_file()


def read_json(path: Path) -> dict[str, Any]:
    """A record of a comparison.

    Raises:
        BadDataError: it is missing or damaged.
    """
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StorageError.of(error, path, "read") from error
    except ValueError as error:
        raise BadDataError(
            "the record is damaged", where=path, hint="delete the file and run again"
        ) from error
    return record


def read_rows(path: Path) -> list[dict[str, str]]:
    """A CSV table.

    Raises:
        StorageError: it cannot be read.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise StorageError.of(error, path, "read") from error


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Publish a CSV table; the columns are all keys in order of appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
