"""`sltool list`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from sltool.cli.command import Terminal, command
from sltool.cli.layout import aligned


def add_to(app: typer.Typer) -> None:
    command(app, "list")(list_)


def list_(
    terminal: Terminal,
    kind: Annotated[
        Literal["datasets", "models", "metrics", "attackers"],
        typer.Argument(help="datasets, models, metrics or attackers."),
    ],
) -> None:
    """Show the datasets, models, metrics or attackers that are there.

    With where each comes from: built-in, an installed package, or a plug-in file.
    """
    from sltool.registry import registries

    registry = registries[kind]
    entries = registry.entries()
    for plugin in registry.broken:
        terminal.note(f"the plug-in {plugin.origin} could not be loaded: {plugin.reason}")
    terminal.result(
        {
            kind: [
                {"name": one.name, "origin": one.origin, "summary": one.summary} for one in entries
            ]
        },
        *aligned(
            ["name", "origin", "summary"],
            [[one.name, one.origin, one.summary] for one in entries],
            text=True,
        ),
    )
