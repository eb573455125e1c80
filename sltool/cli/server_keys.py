"""`sltool server-keys`."""

from __future__ import annotations

import typer

from sltool.cli.command import Terminal, command
from sltool.cli.layout import Verbatim


def add_to(app: typer.Typer) -> None:
    command(app, "server-keys", kept="keys that were made are kept")(server_keys)


def server_keys(terminal: Terminal) -> None:
    """Make the server's keys: for files on the road, and for the predictions it signs.

    With the printed line in study.yaml `ship` encrypts what it sends, and `resolve` knows who has
    predicted. The private keys stay in server/identity and server/key. Without the package pyrage
    there is no encryption, and the key for predictions alone.
    """
    from sltool.shard.encryption import is_available, make_identity
    from sltool.shard.keys import SigningKey
    from sltool.study.study_file import load_study

    folder = terminal.folder
    load_study(folder)
    key = SigningKey.load_or_create(folder.server_key).public
    recipient = make_identity(folder.identity) if is_available() else None
    if recipient is None:
        terminal.note("nothing is encrypted without the package pyrage: install sltool[age]")
    encryption = f"recipient: {recipient}, " if recipient else ""
    terminal.result(
        {"recipient": recipient, "key": key},
        f"the private keys are {folder.identity} and {folder.server_key}: keep them on this server",
        "enter this line in study.yaml, at all sites:",
        Verbatim(f'server: {{{encryption}key: "{key}"}}'),
    )
