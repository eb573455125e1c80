"""`sltool resolve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sltool.cli import completion
from sltool.cli.command import Terminal, command
from sltool.cli.predict import show_resolved


def add_to(app: typer.Typer) -> None:
    command(app, "resolve", kept="a table is written whole or not at all")(resolve)


def resolve(
    terminal: Terminal,
    file: Annotated[Path, typer.Argument(help="The predictions, as the server wrote them.")],
    site: Annotated[
        str,
        typer.Option(
            "--site", metavar="NAME", autocompletion=completion.sites, help="This hospital's site."
        ),
    ],
    server_key: Annotated[
        str | None,
        typer.Option(
            "--server-key", metavar="KEY", help="ed25519:... Default: server.key in study.yaml."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="PATH", help="The table. Default: in sites/NAME/prediction."),
    ] = None,
) -> None:
    """Join the server's predictions to this site's patients.

    Checks the server's signature, the study, the site and the encoding. Writes a private table
    with record, patient and prediction, and decisions if the run has operating points.
    """
    from sltool.api import Site

    study = terminal.open_study()
    done = Site(study, site).resolve(file, server_key=server_key, out=out)
    show_resolved(terminal, done)
