"""From finished arms to figures: what `results.json`, `results.csv`, tables and pictures show."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sltool.errors import BadDataError, StorageError
from sltool.experiments.outcome import Finished, write_rows
from sltool.experiments.paper import Published
from sltool.experiments.statistics import Difference, Interval, Table, difference, intervals
from sltool.files import write_json

REFERENCE = "multi"


@dataclass(frozen=True)
class Row:
    """One arm of one cell over all its seeds."""

    arm: str
    sweep: dict[str, str]
    finished: list[Finished]
    # The predictions of every seed.
    tables: list[Table]
    figures: dict[str, Interval]
    # Against the reference arm of the same cell; {} for that arm.
    differences: dict[str, Difference]

    @property
    def label(self) -> str:
        """'multi', or 'multi, cut 2' in a sweep."""
        return ", ".join([self.arm, *(f"{key} {value}" for key, value in self.sweep.items())])

    @property
    def seconds(self) -> float:
        """Mean wall time of a seed."""
        return float(np.mean([one.seconds for one in self.finished]))

    @cached_property
    def true_and_predicted(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """The labels and predictions of all seeds' test rows together."""
        columns = ([getattr(t, name) for t in self.tables] for name in ("y_true", "y_pred"))
        true, predicted = (np.concatenate(parts) for parts in columns)
        return true, predicted

    @cached_property
    def histories(self) -> list[pd.DataFrame]:
        """The history of every seed; empty for an arm without epochs."""
        return [pd.read_csv(one.history) for one in self.finished if one.history.is_file()]


@dataclass(frozen=True)
class Results:
    """A whole comparison, or runs of a user's own study.

    Attributes:
        labels: the study's labels, as in study.yaml.
        metrics: what is shown; the first is the headline.
        setup: label -> text, for the page's table of how it was run.
        warnings: sentences that the reader must see.
    """

    title: str
    labels: dict[str, Any]
    metrics: tuple[str, ...]
    rows: list[Row]
    published: tuple[Published, ...] = ()
    setup: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """regression, binary or multiclass."""
        return str(self.labels["kind"])

    @property
    def swept(self) -> list[str]:
        """The keys that were swept."""
        return list(dict.fromkeys(key for row in self.rows for key in row.sweep))

    def first_cell(self) -> list[Row]:
        """The arms of one cell, for the pictures that show samples."""
        return [row for row in self.rows if row.sweep == self.rows[0].sweep]


def read_table(path: Path, records: Path | None) -> Table:
    """An arm's `predictions.csv`, in the order of the records, or else of the pseudonyms.

    Args:
        records: as `Finished.records`.

    Raises:
        StorageError: it cannot be read.
        BadDataError: it is no table of predictions.
    """
    try:
        frame = pd.read_csv(path, dtype={"group": str})
        order, groups = frame["pseudonym"], frame["group"].str.split("/").str[0]
        if records is not None:
            known = pd.read_csv(records, dtype=str, keep_default_na=False)
            known = known.set_index("pseudonym").loc[frame["pseudonym"]]
            order, groups = known["record"], known["patient"]
        frame = frame.assign(order=order.to_numpy(), patient=groups.to_numpy())
        frame = frame.sort_values("order", kind="stable")
        columns = [name for name in frame.columns if name.startswith("y_pred")]
        y_pred = frame[columns].to_numpy(dtype=float)
        return Table(
            frame["y_true"].to_numpy(dtype=float),
            y_pred[:, 0] if len(columns) == 1 else y_pred,
            frame["patient"].to_numpy(dtype=str),
        )
    except OSError as error:
        raise StorageError.of(error, Path(error.filename or path), "read") from error
    except (KeyError, ValueError, IndexError) as error:
        raise BadDataError(
            "this is no table of predictions",
            where=path,
            expected="the columns pseudonym, group, site, y_true and y_pred",
            hint="run `sltool evaluate` again",
        ) from error


def make_rows(finished: Iterable[Finished], metrics: Sequence[str], reference: str) -> list[Row]:
    """Group the finished arms by cell and arm, and compute every figure.

    Args:
        reference: the arm that the others of its cell are compared with, where they have the same
            seeds and test rows.
    """
    grouped: dict[tuple[str, tuple[tuple[str, str], ...]], list[Finished]] = {}
    for one in finished:
        grouped.setdefault((one.arm, tuple(one.sweep.items())), []).append(one)
    rows = {}
    for key, group in grouped.items():
        tables = [read_table(one.predictions, one.records) for one in group]
        rows[key] = Row(key[0], dict(key[1]), group, tables, intervals(tables, metrics), {})
    # A metric that is not defined for one row's test samples cannot stand in a table of all rows.
    shared = [name for name in metrics if all(name in row.figures for row in rows.values())]
    rows = {
        key: replace(row, figures={name: row.figures[name] for name in shared})
        for key, row in rows.items()
    }
    return [_compared(row, rows.get((reference, key[1]))) for key, row in rows.items()]


def _compared(row: Row, reference: Row | None) -> Row:
    if reference is None or row.arm == reference.arm or not _same_rows(row, reference):
        return row
    differences = {
        name: difference(figure, reference.figures[name])
        for name, figure in row.figures.items()
        if name in reference.figures
    }
    return replace(row, differences=differences)


def _same_rows(one: Row, other: Row) -> bool:
    """Whether two arms were tested on the same samples, seed by seed."""
    return [run.seed for run in one.finished] == [run.seed for run in other.finished] and all(
        len(a.y_true) == len(b.y_true)
        and bool((a.y_true == b.y_true).all())
        and bool((a.groups == b.groups).all())
        for a, b in zip(one.tables, other.tables, strict=True)
    )


def document(results: Results) -> dict[str, Any]:
    """`results.json`."""
    return {
        "title": results.title,
        "labels": results.labels,
        "metrics": list(results.metrics),
        "setup": results.setup,
        "warnings": list(results.warnings),
        "left_out": results.left_out,
        "arms": [_row_document(row) for row in results.rows],
        "published": [vars(one) for one in results.published],
    }


def _row_document(row: Row) -> dict[str, Any]:
    return {
        "arm": row.arm,
        "sweep": row.sweep,
        "seeds": [one.seed for one in row.finished],
        "samples": [one.outcome.samples for one in row.finished],
        "best_epochs": [one.outcome.best_epoch for one in row.finished],
        "seconds": [one.seconds for one in row.finished],
        "metrics": {
            name: {
                "mean": _number(one.mean),
                "sd": _number(one.sd),
                "low": _number(one.low),
                "high": _number(one.high),
                "seeds": [_number(value) for value in one.seeds],
            }
            for name, one in row.figures.items()
        },
        "against_reference": {
            name: {key: _number(value) for key, value in vars(one).items()}
            for name, one in row.differences.items()
        },
    }


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def csv_rows(results: Results) -> list[dict[str, Any]]:
    """`results.csv`: a row for each arm, cell and metric."""
    rows = []
    for row in results.rows:
        for name, one in row.figures.items():
            against = row.differences.get(name)
            rows.append(
                {
                    "arm": row.arm,
                    **row.sweep,
                    "metric": name,
                    "mean": one.mean,
                    "sd": one.sd,
                    "low": one.low,
                    "high": one.high,
                    "seeds": len(one.seeds),
                    "difference": against.mean if against else None,
                    "p": against.p if against else None,
                }
            )
    return rows


def write_results(results: Results, out: Path) -> None:
    """Publish `results.json` and `results.csv`."""
    write_json(out / "results.json", document(results))
    write_rows(out / "results.csv", csv_rows(results))
