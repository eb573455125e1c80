"""`sltool enroll`."""

from __future__ import annotations

from typing import Annotated

import typer

from sltool.cli.command import Terminal, command


def add_to(app: typer.Typer) -> None:
    command(app, "enroll")(enroll)


def enroll(
    terminal: Terminal,
    site: Annotated[str, typer.Option("--site", metavar="NAME", help="This hospital's site.")],
    encrypt: Annotated[
        bool,
        typer.Option("--encrypt", help="Also a key that the server encrypts predictions for."),
    ] = False,
) -> None:
    """Make this site's key pair.

    Prints the line for `sites:` in study.yaml. The private key stays in sites/NAME.
    """
    from sltool.shard.encryption import make_identity
    from sltool.site.enrol import enrol
    from sltool.study.study_file import load_study

    folder = terminal.folder
    public = enrol(folder, load_study(folder), [site])[site]
    recipient = make_identity(folder.site(site).identity) if encrypt else None
    more = f", recipient: {recipient}" if recipient else ""
    terminal.result(
        {"site": site, "key": public, "recipient": recipient},
        f"the private key is in {folder.site(site).key}: keep it in this hospital",
        "send this line to the study's coordinator, for `sites:` in study.yaml:",
        f'  {site}: {{key: "{public}"{more}}}',
    )
