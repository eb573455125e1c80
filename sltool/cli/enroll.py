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
) -> None:
    """Make this site's key pair.

    Prints the line for `sites:` in study.yaml. The private key stays in sites/NAME.
    """
    from sltool.site.enrol import enrol
    from sltool.study.study_file import load_study

    folder = terminal.folder
    public = enrol(folder, load_study(folder), [site])[site]
    terminal.result(
        {"site": site, "key": public},
        f"the private key is in {folder.site(site).key}: keep it in this hospital",
        "send this line to the study's coordinator, for `sites:` in study.yaml:",
        f'  {site}: {{key: "{public}"}}',
    )
