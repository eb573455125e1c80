"""Computes the results of finished arms, and writes `results.json` and `results.csv`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sltool.errors import BadDataError, StorageError
from sltool.experiments.arm_files import FinishedArm
from sltool.experiments.paper import Published
from sltool.experiments.statistics import Difference, Interval, Table, difference, intervals
from sltool.experiments.sweep import baseline
from sltool.files import write_csv, write_json
from sltool.metrics import plugin_metrics

REFERENCE = "multi"


@dataclass(frozen=True)
class ArmResult:
    """An arm of one cell over all its seeds."""

    arm: str
    sweep: dict[str, str]
    finished: list[FinishedArm]
    # The predictions of every seed.
    tables: list[Table]
    figures: dict[str, Interval]
    # To the reference arm of the same cell; {} for that arm.
    differences: dict[str, Difference]
    # To the same arm in the cell with the axis' baseline value; {} there, and without a sweep.
    changes: dict[str, Difference] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """'multi', or 'multi, cut 2' in a sweep."""
        return ", ".join([self.arm, *(f"{key} {value}" for key, value in self.sweep.items())])

    @property
    def seconds(self) -> float:
        """Mean wall time of a seed."""
        return float(np.mean([run.seconds for run in self.finished]))

    @cached_property
    def true_and_predicted(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """The labels and predictions of the test rows of all seeds, concatenated."""
        columns = ([getattr(table, name) for table in self.tables] for name in ("y_true", "y_pred"))
        true, predicted = (np.concatenate(parts) for parts in columns)
        return true, predicted

    @cached_property
    def histories(self) -> list[pd.DataFrame]:
        """The history of every seed; empty for an arm without epochs."""
        return [_history(run.history) for run in self.finished if run.history.is_file()]


@dataclass(frozen=True)
class Results:
    """A whole comparison, or runs of a user's own study.

    Attributes:
        labels: the study's labels, as in study.yaml.
        metrics: the shown ones; the first is the headline metric.
        setup: label -> text, for the page's table of settings.
        warnings: sentences that the reader must see.
    """

    title: str
    labels: dict[str, Any]
    metrics: tuple[str, ...]
    rows: list[ArmResult]
    published: tuple[Published, ...] = ()
    setup: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """regression, binary or multiclass."""
        return str(self.labels["kind"])

    @property
    def swept(self) -> list[str]:
        """The keys that were swept."""
        return list(dict.fromkeys(key for row in self.rows for key in row.sweep))

    @property
    def axis(self) -> str:
        """The swept key that figures and tables are drawn against; '' without a sweep."""
        return axis_of(row.sweep for row in self.rows)

    @property
    def axis_values(self) -> list[str]:
        """The axis' values, as swept."""
        return list(dict.fromkeys(row.sweep[self.axis] for row in self.rows if self.axis))

    @property
    def compared(self) -> list[str]:
        """The metrics whose differences are shown; see `foremost`."""
        return foremost(self.metrics, self.kind)

    def first_cell(self) -> list[ArmResult]:
        """The arms of the first cell, for the pictures that show samples."""
        return [row for row in self.rows if row.sweep == self.rows[0].sweep]


def axis_of(points: Iterable[Mapping[str, str]]) -> str:
    """The first swept key that has several values, or else the first one; '' without any."""
    values: dict[str, set[str]] = {}
    for point in points:
        for key, value in point.items():
            values.setdefault(key, set()).add(value)
    return next((key for key, found in values.items() if len(found) > 1), next(iter(values), ""))


def foremost(metrics: Sequence[str], kind: str) -> list[str]:
    """The first three metrics, and those of plug-ins."""
    return list(dict.fromkeys([*metrics[:3], *(m for m in plugin_metrics(kind) if m in metrics)]))


def _history(path: Path) -> pd.DataFrame:
    """The epochs, losses and accuracies of a `history.csv`.

    Raises:
        BadDataError: it is damaged.
    """
    try:
        frame = pd.read_csv(path)
        names = [n for n in frame.columns if n == "epoch" or n.endswith(("_loss", "_accuracy"))]
        return frame[names].astype(float)
    except OSError as error:
        raise StorageError.of(error, path, "read") from error
    except (ValueError, OverflowError) as error:
        raise BadDataError(
            f"the history is damaged: {error}",
            where=path,
            hint="train again: `sltool server-train` writes it from the checkpoint",
        ) from error


def read_table(path: Path, records: Path | None) -> Table:
    """An arm's `predictions.csv`, sorted by record, or by pseudonym without `records`.

    Args:
        records: as `FinishedArm.records`.

    Raises:
        StorageError: it cannot be read.
        BadDataError: it is not a table of predictions.
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
        if frame[["pseudonym", "group", "y_true", *columns]].isna().to_numpy().any():
            raise ValueError("a cell is empty")
        return Table(
            frame["y_true"].to_numpy(dtype=float),
            y_pred[:, 0] if len(columns) == 1 else y_pred,
            frame["patient"].to_numpy(dtype=str),
        )
    except OSError as error:
        raise StorageError.of(error, Path(error.filename or path), "read") from error
    except (KeyError, ValueError, IndexError) as error:
        raise BadDataError(
            "this is not a table of predictions",
            where=path,
            expected="the columns pseudonym, group, site, y_true and y_pred",
            hint="run `sltool evaluate` again",
        ) from error


def make_rows(
    finished: Iterable[FinishedArm], metrics: Sequence[str], reference: str
) -> list[ArmResult]:
    """Group the finished arms by cell and arm, and compute their metrics and differences.

    Args:
        reference: the arm with which the others of its cell are compared, where they have the
            same seeds and test rows.
    """
    grouped: dict[tuple[str, tuple[tuple[str, str], ...]], list[FinishedArm]] = {}
    for run in finished:
        grouped.setdefault((run.arm, tuple(run.sweep.items())), []).append(run)
    rows = {}
    for key, group in grouped.items():
        tables = [read_table(run.predictions, run.records) for run in group]
        rows[key] = ArmResult(key[0], dict(key[1]), group, tables, intervals(tables, metrics), {})
    axis = axis_of(row.sweep for row in rows.values())
    values = list(dict.fromkeys(row.sweep[axis] for row in rows.values())) if axis else []
    compared = []
    for (arm, point), row in rows.items():
        start = {**row.sweep, axis: baseline(axis, values)} if axis else {}
        compared.append(
            replace(
                row,
                differences=_differences(row, rows.get((reference, point))),
                changes=_differences(row, rows.get((arm, tuple(start.items())))),
            )
        )
    return compared


def _differences(row: ArmResult, reference: ArmResult | None) -> dict[str, Difference]:
    """`row` minus `reference`; {} if that is the row itself, or was tested on other samples."""
    if reference is None or row is reference or not _same_rows(row, reference):
        return {}
    return {
        name: difference(figure, reference.figures[name])
        for name, figure in row.figures.items()
        if name in reference.figures
    }


def _same_rows(row: ArmResult, other: ArmResult) -> bool:
    """Whether two arms were tested on the same samples, seed by seed."""
    return [run.seed for run in row.finished] == [run.seed for run in other.finished] and all(
        len(a.y_true) == len(b.y_true)
        and bool((a.y_true == b.y_true).all())
        and bool((a.groups == b.groups).all())
        for a, b in zip(row.tables, other.tables, strict=True)
    )


def document(results: Results) -> dict[str, Any]:
    """`results.json`."""
    return {
        "title": results.title,
        "labels": results.labels,
        "metrics": list(results.metrics),
        "setup": results.setup,
        "warnings": list(results.warnings),
        "left_out": results.skipped,
        "arms": [_row_document(row) for row in results.rows],
        "published": [vars(published) for published in results.published],
    }


def _row_document(row: ArmResult) -> dict[str, Any]:
    return {
        "arm": row.arm,
        "sweep": row.sweep,
        "seeds": [run.seed for run in row.finished],
        "samples": [run.outcome.samples for run in row.finished],
        "best_epochs": [run.outcome.best_epoch for run in row.finished],
        "seconds": [run.seconds for run in row.finished],
        "metrics": {
            name: {
                "mean": _finite_or_none(figure.mean),
                "sd": _finite_or_none(figure.sd),
                **interval_document(figure),
                "seeds": [_finite_or_none(value) for value in figure.seeds],
            }
            for name, figure in row.figures.items()
        },
        "against_reference": {
            name: difference_document(against) for name, against in row.differences.items()
        },
        "against_baseline": {
            name: difference_document(change) for name, change in row.changes.items()
        },
        "audits": [run.audit for run in row.finished if run.audit is not None],
    }


def interval_document(figure: Interval) -> dict[str, Any]:
    """The interval's bounds, None where undefined, and the count of undefined draws."""
    return {
        "low": _finite_or_none(figure.low),
        "high": _finite_or_none(figure.high),
        "undefined": figure.undefined,
    }


def difference_document(against: Difference) -> dict[str, Any]:
    """All attributes; None for those that are not finite."""
    numbers = {key: _finite_or_none(getattr(against, key)) for key in ("mean", "low", "high", "p")}
    return {**numbers, "undefined": against.undefined}


def undefined_draws(rows: Iterable[ArmResult]) -> list[str]:
    """A sentence for each metric that is undefined in some draws."""
    return [
        f"{row.label}: {name} is undefined in {figure.undefined} of {len(figure.draws)} resamples, "
        "which widen its interval"
        for row in rows
        for name, figure in row.figures.items()
        if figure.undefined
    ]


def _finite_or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def csv_rows(results: Results) -> list[dict[str, Any]]:
    """`results.csv`: a row for each arm, cell and metric."""
    rows = []
    for row in results.rows:
        for name, figure in row.figures.items():
            against = row.differences.get(name)
            rows.append(
                {
                    "arm": row.arm,
                    **row.sweep,
                    "metric": name,
                    "mean": figure.mean,
                    "sd": figure.sd,
                    "low": figure.low,
                    "high": figure.high,
                    "seeds": len(figure.seeds),
                    "difference": against.mean if against else None,
                    "p": against.p if against else None,
                }
            )
        rows += _audit_rows(row)
    return rows


def _audit_rows(row: ArmResult) -> list[dict[str, Any]]:
    """A row for each figure of the audits; their lowest and highest value are over the seeds."""
    audits = [run.audit["figures"] for run in row.finished if run.audit is not None]
    rows = []
    for name in dict.fromkeys(name for figures in audits for name in figures):
        values = [figures[name] for figures in audits if name in figures]
        rows.append(
            {
                "arm": row.arm,
                **row.sweep,
                "metric": name,
                "mean": float(np.mean(values)),
                "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
                "low": min(values),
                "high": max(values),
                "seeds": len(values),
                "difference": None,
                "p": None,
            }
        )
    return rows


def write_results(results: Results, out: Path) -> None:
    """Publish `results.json` and `results.csv`."""
    write_json(out / "results.json", document(results), public=True)
    write_csv(out / "results.csv", csv_rows(results), public=True)
