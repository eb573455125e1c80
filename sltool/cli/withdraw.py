"""`sltool withdraw`."""

from __future__ import annotations

from typing import Annotated

import typer

from sltool.cli import completion
from sltool.cli.command import Terminal, command
from sltool.wording import plural


def add_to(app: typer.Typer) -> None:
    command(app, "withdraw", kept="a withdrawal is written whole or not at all")(withdraw)


def withdraw(
    terminal: Terminal,
    site: Annotated[
        str,
        typer.Option(
            "--site", metavar="NAME", autocompletion=completion.sites, help="This hospital's site."
        ),
    ],
    patient: Annotated[
        str, typer.Option("--patient", metavar="ID", help="As in sites/NAME/pseudonyms.csv.")
    ],
) -> None:
    """Take a patient's samples back.

    Writes a signed list of pseudonyms to outbox/SITE; `sltool ship` sends it. The server then
    never reads those samples again, and no stage here encodes them again.
    """
    from sltool.api import Site

    done = Site(terminal.open_study(), site).withdraw(patient)
    terminal.result(
        {"site": done.site, "samples": done.samples, "file": str(done.file)},
        f"site {done.site}: {plural(done.samples, 'sample')} withdrawn, in {done.file}",
        *(
            [f"encode without them: `sltool client-encode --site {done.site}`"]
            if done.encode_again
            else []
        ),
        f"send it with `sltool ship --site {done.site}`",
    )
