"""`sltool compare`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sltool.cli.command import Terminal, command
from sltool.cli.evaluate import LevelOption, format_metric
from sltool.errors import UsageError

if TYPE_CHECKING:
    from sltool.experiments.results import Row


def add_to(app: typer.Typer) -> None:
    command(app, "compare")(compare)


def compare(
    terminal: Terminal,
    runs: Annotated[
        list[str] | None, typer.Argument(help="Runs. Default: all that were evaluated.")
    ] = None,
    split: Annotated[
        Literal["test", "validation"], typer.Option("--split", help="test or validation.")
    ] = "test",
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
    from sltool.server.comparison import compare_runs

    found = compare_runs(terminal.folder, runs or [], split, level)
    if intervals:
        if level != "image":
            raise UsageError("--intervals are of images", expected="--level image")
        _with_intervals(terminal, [one.run for one in found], split, [vars(one) for one in found])
        return
    names = list(dict.fromkeys(name for one in found for name in one.metrics))
    terminal.table(
        {"split": split, "level": level, "runs": [vars(one) for one in found]},
        ["run", "sites", *names],
        [
            [one.run, " ".join(one.sites), *(format_metric(one.metrics.get(n)) for n in names)]
            for one in found
        ],
    )


def _with_intervals(
    terminal: Terminal, runs: list[str], split: str, documents: list[dict[str, Any]]
) -> None:
    from sltool.experiments.report import study_rows
    from sltool.studyfile import load_study

    rows = study_rows(terminal.folder, load_study(terminal.folder), runs, split)
    for row, known in zip(rows, documents, strict=True):
        known["intervals"] = {n: {"low": f.low, "high": f.high} for n, f in row.figures.items()}
        known["against_first"] = {n: vars(d) for n, d in row.differences.items()}
    names = list(rows[0].figures)[:3]
    terminal.table(
        {"split": split, "runs": documents},
        ["run", *(head for name in names for head in (name, f"p {name}"))],
        [[row.arm, *(cell for name in names for cell in _cells(row, name))] for row in rows],
    )


def _cells(row: Row, name: str) -> list[str]:
    one, against = row.figures[name], row.differences.get(name)
    shown = f"{one.mean:.4f} ({one.low:.4f} to {one.high:.4f})"
    return [shown, f"{against.p:.3f}" if against else "-"]
