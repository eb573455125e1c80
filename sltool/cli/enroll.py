"""`sltool enroll`."""

from __future__ import annotations

from typing import Annotated

import typer

from sltool.cli import completion
from sltool.cli.command import Terminal, command
from sltool.cli.join import enrolment_document, enrolment_lines


def add_to(app: typer.Typer) -> None:
    command(app, "enroll", kept="keys that were made are kept")(enroll)


def enroll(
    terminal: Terminal,
    site: Annotated[
        str,
        typer.Option(
            "--site", metavar="NAME", autocompletion=completion.sites, help="This hospital's site."
        ),
    ],
    encrypt: Annotated[
        bool,
        typer.Option("--encrypt", help="Also a key that the server encrypts predictions for."),
    ] = False,
) -> None:
    """Make this site's key pair, or write NAME.pub again.

    The part of `sltool join` that needs no kit, for a folder that has a study.yaml.
    """
    enrolled = terminal.open_study().enrol(site, encrypt=encrypt)
    terminal.result(enrolment_document(terminal, enrolled), *enrolment_lines(terminal, enrolled))
