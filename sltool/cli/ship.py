"""`sltool ship`."""

from __future__ import annotations

from typing import Annotated

import typer

from sltool.cli.command import ForceOption, Terminal, command, human_bytes, one_or_all


def add_to(app: typer.Typer) -> None:
    command(app, "ship")(ship)


def ship(
    terminal: Terminal,
    site: Annotated[
        str | None, typer.Option("--site", metavar="NAME", help="Default: every site here.")
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="DIR|URL", help="A folder or s3://bucket/prefix. Default: server/inbox."
        ),
    ] = None,
    accept_risk: Annotated[
        str | None,
        typer.Option(
            "--accept-risk",
            metavar="REASON",
            help="Ship though the study's privacy limits forbid it; the server is told why.",
        ),
    ] = None,
    force: ForceOption = False,
) -> None:
    """Copy a site's shards to the server's inbox.

    --to takes a disk's folder or a bucket as well. What lies there already is skipped. Where
    study.yaml sets limits under `privacy`, shards ship only after an audit within them.
    """
    from sltool.site.gate import ship_within_limits
    from sltool.study.study_file import load_study

    folder = terminal.folder
    study = load_study(folder)
    names = one_or_all(terminal, site, "sltool partition")
    study.check_sites(names)
    destination = to or str(folder.inbox)
    done = [
        ship_within_limits(folder, study, name, destination, terminal, force, accept_risk)
        for name in names
    ]
    documents = [
        {
            "site": one.site,
            "shards": one.shards,
            "bytes": one.bytes,
            "destination": one.destination,
            "already_shipped": one.again,
        }
        for one in done
    ]
    lines = [
        f"site {one.site}: {'already shipped, ' if one.again else ''}{one.shards} shards, "
        f"{human_bytes(one.bytes)}, to {one.destination}"
        for one in done
    ]
    terminal.result(documents[0] if len(done) == 1 else {"sites": documents}, *lines)
