"""`sltool server-keys`."""

from __future__ import annotations

import typer

from sltool.cli.command import Terminal, command


def add_to(app: typer.Typer) -> None:
    command(app, "server-keys")(server_keys)


def server_keys(terminal: Terminal) -> None:
    """Make the server's key for files on the road.

    With the printed line in study.yaml `ship` encrypts what it sends. The identity stays in
    server/identity.
    """
    from sltool.shard.encryption import make_identity
    from sltool.study.study_file import load_study

    folder = terminal.folder
    load_study(folder)
    recipient = make_identity(folder.identity)
    terminal.result(
        {"recipient": recipient},
        f"the private identity is in {folder.identity}: keep it on this server",
        "enter this line in study.yaml, at all sites:",
        f"server: {{recipient: {recipient}}}",
    )
