"""`sltool server-keys`."""

from __future__ import annotations

from typing import Annotated

import typer

from sltool.cli.command import Terminal, command
from sltool.cli.layout import Verbatim
from sltool.errors import StudyMismatchError
from sltool.study.layout import StudyFolder


def add_to(app: typer.Typer) -> None:
    command(app, "server-keys", kept="keys that were made are kept")(server_keys)


def server_keys(
    terminal: Terminal,
    enter: Annotated[
        bool, typer.Option("--enter", help="Enter the public keys in this folder's study.yaml.")
    ] = False,
) -> None:
    """Make the server's keys: for files on the road, and for the predictions it signs.

    With the printed line in study.yaml `ship` encrypts what it sends, and `resolve` knows who has
    predicted. The private keys stay in server/identity and server/key. Without the package pyrage
    there is no encryption, and the key for predictions alone.

    --enter is for a coordinator whose folder is also the server's, before `sltool study kit`.
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
    if enter:
        _enter(folder, key, recipient)
    encryption = f"recipient: {recipient}, " if recipient else ""
    line = f'server: {{{encryption}key: "{key}"}}'
    terminal.result(
        {"recipient": recipient, "key": key},
        f"the private keys are {folder.identity} and {folder.server_key}: keep them on this server",
        "entered in study.yaml:" if enter else "enter this line in study.yaml, at all sites:",
        Verbatim(line),
    )


def _enter(folder: StudyFolder, key: str, recipient: str | None) -> None:
    """Write both into study.yaml, whose comments stay.

    Raises:
        StudyMismatchError: it lists other keys, which sites may have.
        StudyFileError: it cannot be edited automatically.
    """
    from sltool.study.study_file import load_study, with_settings

    listed = load_study(folder).server
    made = {"key": key, **({"recipient": recipient} if recipient else {})}
    if other := [name for name in made if getattr(listed, name) not in (None, made[name])]:
        raise StudyMismatchError(
            f"study.yaml lists another server.{other[0]} than this folder's",
            where=folder.study_file,
            expected=made[other[0]],
            hint="enter it by hand if the old one is no longer used, and send everybody a new kit",
        )
    _, publish = with_settings(folder.study_file, {"server": made})
    publish()
