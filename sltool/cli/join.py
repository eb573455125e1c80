"""`sltool join`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sltool.cli import completion
from sltool.cli.command import ForceOption, Terminal, command

if TYPE_CHECKING:
    from sltool.coordinator.unpack import Unpacked
    from sltool.shard.public_key_file import PublicKeyFile


def add_to(app: typer.Typer) -> None:
    command(app, "join", kept="what was unpacked is kept")(join)


def join(
    terminal: Terminal,
    kit: Annotated[Path, typer.Argument(help="The file from the study's coordinator.")],
    site: Annotated[
        str | None,
        typer.Option(
            "--site",
            metavar="NAME",
            autocompletion=completion.sites,
            help="This hospital's site. At the server: none.",
        ),
    ] = None,
    fingerprint: Annotated[
        str | None,
        typer.Option(
            "--fingerprint",
            metavar="HEX",
            help="Of the coordinator's key, as the coordinator says it: no other is accepted.",
        ),
    ] = None,
    force: ForceOption = False,
) -> None:
    """Join a study: check its kit, unpack it here, and make this site's keys.

    Writes study.yaml, privacy-layer.safetensors, leaflet.html and NAME.pub, which goes back to the
    coordinator. A later version of the study's kit is joined in the same folder.
    """
    from sltool.api import Study

    study = Study(terminal.study, progress=terminal)
    if site is None:
        unpacked = study.unpack(kit, fingerprint=fingerprint, force=force)
        terminal.result(_document(unpacked), *_unpacked_lines(unpacked), "next: `sltool status`")
        return
    joined = study.join(kit, site, fingerprint=fingerprint, force=force)
    unpacked = joined.unpacked
    if joined.encode_again:
        terminal.note(
            "the meaning of a feature map has changed: `sltool client-encode` again, after "
            "`sltool prepare` and `sltool partition` where they ask for it"
        )
    table = f"a table needs the columns {', '.join(joined.columns)}" if joined.columns else ""
    terminal.result(
        {
            **_document(unpacked),
            **enrolment_document(terminal, joined.enrolled),
            "columns": joined.columns,
        },
        *_unpacked_lines(unpacked),
        *enrolment_lines(terminal, joined.enrolled),
        *([f"{table} (or `sltool prepare --column NAME=HEADER`)"] if table else []),
        f"next: read {terminal.folder.leaflet.name}, then `sltool prepare --source PATH`",
    )


def _document(unpacked: Unpacked) -> dict[str, Any]:
    return {
        "study": unpacked.study.id,
        "agreement": unpacked.agreement,
        "coordinator": {"key": unpacked.coordinator, "fingerprint": unpacked.fingerprint},
        "changed": list(unpacked.changed),
        "again": unpacked.again,
    }


def _unpacked_lines(unpacked: Unpacked) -> list[str]:
    what = "joined before" if unpacked.again else "unpacked"
    changed = f"; changed: {', '.join(unpacked.changed)}" if unpacked.changed else ""
    return [
        f"{what}: study {unpacked.study.id}, version {unpacked.agreement[:16]}{changed}",
        f"the kit is signed with the key {unpacked.fingerprint}",
        "  have the coordinator read this fingerprint out on the telephone; if it differs, stop",
    ]


def enrolment_document(terminal: Terminal, enrolled: PublicKeyFile) -> dict[str, Any]:
    """What a site sends back, as JSON."""
    from sltool.shard.keys import fingerprint

    return {
        "site": enrolled.site,
        "key": enrolled.key,
        "fingerprint": fingerprint(enrolled.key),
        "recipient": enrolled.recipient,
        "file": str(terminal.folder.public_key(enrolled.site)),
    }


def enrolment_lines(terminal: Terminal, enrolled: PublicKeyFile) -> list[str]:
    """The same for people."""
    from sltool.shard.keys import fingerprint

    name, folder = enrolled.site, terminal.folder
    return [
        f"site {name} is enrolled; its private key is in {folder.site(name).key}: "
        "keep it in this hospital",
        f"send {folder.public_key(name)} to the coordinator, and read out its fingerprint:",
        f"  {fingerprint(enrolled.key)}",
        *(
            [f"{folder.site(name).identity} decrypts the server's predictions: keep it here too"]
            if enrolled.recipient
            else []
        ),
    ]
