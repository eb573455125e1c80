"""`sltool compare`."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sltool.cli import completion
from sltool.cli.command import Terminal, command
from sltool.cli.evaluate import UNITS, LevelOption, MetricsOption, SplitOption, format_metric
from sltool.errors import UnknownNameError, UsageError
from sltool.study.layout import Question

if TYPE_CHECKING:
    from sltool.experiments.results import ArmResult
    from sltool.server.evaluation.compare import RunFigures


def add_to(app: typer.Typer) -> None:
    command(app, "compare")(compare)


def compare(
    terminal: Terminal,
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            autocompletion=completion.runs, help="Runs. Default: all that were evaluated."
        ),
    ] = None,
    metrics: MetricsOption = None,
    split: SplitOption = "test",
    level: LevelOption = "image",
    intervals: Annotated[
        bool,
        typer.Option(
            "--intervals",
            help="95 % bootstrap intervals over patients, and p-values against the first run.",
        ),
    ] = False,
) -> None:
    """Show several runs' figures side by side.

    `sltool report` makes a page of them.
    """
    from sltool.api import Study

    study = Study(terminal.study, progress=terminal)
    found = _only(metrics, study.compare_figures(runs or [], split=split, level=level))
    if len({row.samples for row in found}) > 1:
        counts = ", ".join(f"{row.run} {row.samples}" for row in found)
        terminal.note(f"not tested on the same {UNITS[level]}: {counts}; evaluate the runs again")
    if intervals:
        if level != "image":
            raise UsageError("--intervals are of images", expected="--level image")
        documents = [vars(row) for row in found]
        question = Question(split, level)
        _with_intervals(terminal, [row.run for row in found], question, metrics or [], documents)
        return
    names = list(dict.fromkeys(name for row in found for name in row.metrics))
    terminal.table(
        {"split": split, "level": level, "runs": [vars(row) for row in found]},
        ["run", "sites", *names],
        [
            [row.run, " ".join(row.sites), *(format_metric(row.metrics.get(n)) for n in names)]
            for row in found
        ],
    )


def _only(metrics: list[str] | None, found: list[RunFigures]) -> list[RunFigures]:
    """The rows with the figures of these metrics alone."""
    known = {name for row in found for name in row.metrics}
    for name in metrics or []:
        if name not in known:
            raise UnknownNameError.of("metric", name, known, hint="`sltool evaluate` anew adds it")
    return [
        replace(row, metrics={name: row.metrics.get(name) for name in metrics or row.metrics})
        for row in found
    ]


def _with_intervals(
    terminal: Terminal,
    runs: list[str],
    question: Question,
    metrics: list[str],
    documents: list[dict[str, Any]],
) -> None:
    from sltool.experiments.report import study_rows
    from sltool.experiments.results import (
        difference_document,
        foremost,
        interval_document,
        undefined_draws,
    )
    from sltool.study.study_file import load_study

    study = load_study(terminal.folder)
    rows = study_rows(terminal.folder, study, runs, question, metrics)
    for row, known in zip(rows, documents, strict=True):
        known["intervals"] = {n: interval_document(f) for n, f in row.figures.items()}
        known["against_first"] = {n: difference_document(d) for n, d in row.differences.items()}
    for told in undefined_draws(rows):
        terminal.note(told)
    names = metrics or foremost(list(rows[0].figures), study.samples.labels.kind)
    terminal.table(
        {"split": question.split, "runs": documents},
        ["run", *(head for name in names for head in (name, f"p {name}"))],
        [[row.arm, *(cell for name in names for cell in _cells(row, name))] for row in rows],
    )


def _cells(row: ArmResult, name: str) -> list[str]:
    figure, against = row.figures[name], row.differences.get(name)
    mean, low, high = (format_metric(value) for value in (figure.mean, figure.low, figure.high))
    return [
        f"{mean} ({low} to {high})",
        f"{against.p:.3f}" if against and isfinite(against.p) else "-",
    ]
