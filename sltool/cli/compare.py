"""`sltool compare`."""

from __future__ import annotations

from typing import Annotated

import typer

from sltool.cli.command import Terminal, command
from sltool.cli.evaluate import LevelOption, format_metric


def add_to(app: typer.Typer) -> None:
    command(app, "compare")(compare)


def compare(
    terminal: Terminal,
    runs: Annotated[
        list[str] | None, typer.Argument(help="Runs. Default: all that were evaluated.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="test or validation.")] = "test",
    level: LevelOption = "image",
) -> None:
    """Show several runs' figures side by side."""
    from sltool.server.comparison import compare_runs

    found = compare_runs(terminal.folder, runs or [], split, level)
    names = list(dict.fromkeys(name for one in found for name in one.metrics))
    terminal.table(
        {"split": split, "level": level, "runs": [vars(one) for one in found]},
        ["run", "sites", *names],
        [
            [one.run, " ".join(one.sites), *(format_metric(one.metrics.get(n)) for n in names)]
            for one in found
        ],
    )
