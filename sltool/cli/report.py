"""`sltool report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sltool.cli import completion
from sltool.cli.command import Terminal, command

if TYPE_CHECKING:
    from sltool.experiments.report import Reported
    from sltool.experiments.statistics import Interval


def add_to(app: typer.Typer) -> None:
    command(app, "report", kept="the runs are kept, the report is written anew")(report)


def report(
    terminal: Terminal,
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            autocompletion=completion.runs, help="Runs. Default: all that were evaluated."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Default: server/report.")
    ] = None,
) -> None:
    """Write a page about runs: tables, intervals, pictures.

    The others are compared with the first. Writes report.html, figures, results.json and
    results.csv.
    """
    from sltool.experiments.report import report_runs
    from sltool.study.study_file import load_study

    folder = terminal.folder
    target = out or folder.server / "report"
    show(terminal, report_runs(folder, load_study(folder), runs or [], target))


def show(terminal: Terminal, done: Reported) -> None:
    """Print a report's table, and say where its page is."""
    from sltool.experiments.results import document, undefined_draws

    results = done.results
    terminal.table(
        {**document(results), "page": str(done.page)},
        ["arm", *results.metrics],
        [
            [row.label, *(_figure(row.figures[name]) for name in results.metrics)]
            for row in results.rows
        ],
    )
    for told in undefined_draws(results.rows):
        terminal.note(told)
    terminal.note(f"the report is {done.page}")


def _figure(one: Interval) -> str:
    """The mean rounded to its spread, with the standard deviation over several seeds."""
    from sltool.experiments.rounding import with_spread

    return with_spread(one.mean, one.sd, (one.high - one.low) / 2)
