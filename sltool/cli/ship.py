"""`sltool ship`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sltool.cli import completion
from sltool.cli.command import ForceOption, Terminal, command, human_bytes, one_or_all
from sltool.wording import plural

if TYPE_CHECKING:
    from sltool.site.ship import ShippingResult


def add_to(app: typer.Typer) -> None:
    command(app, "ship", kept="the files that were sent are kept")(ship)


def ship(
    terminal: Terminal,
    site: Annotated[
        str | None,
        typer.Option(
            "--site",
            metavar="NAME",
            autocompletion=completion.sites,
            help="Default: every site here.",
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="DIR|URL",
            help="A folder, s3://bucket/prefix or sftp://host/path. Default: server/inbox.",
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
    new: Annotated[
        bool, typer.Option("--new", help="Leave out what was shipped before, wherever to.")
    ] = False,
    force: ForceOption = False,
) -> None:
    """Copy a site's shards to the server's inbox.

    --to takes a disk's folder, a bucket or an SFTP server as well. What lies there already is
    skipped; --new also skips, on an empty disk, what another one had. Where study.yaml sets limits
    under `privacy`, shards ship only after an audit within them.
    """
    from sltool.api import Site

    study = terminal.open_study()
    done = [
        Site(study, name).ship(to, accept_risk=accept_risk, only_new=new, force=force)
        for name in one_or_all(terminal, site, "sltool partition")
    ]
    documents = [
        {
            "site": shipped.site,
            "shards": shipped.shards,
            "bytes": shipped.bytes,
            "destination": shipped.destination,
            "already_shipped": shipped.again,
            "sent": shipped.sent,
        }
        for shipped in done
    ]
    lines = [_line(shipped) for shipped in done]
    terminal.result(documents[0] if len(done) == 1 else {"sites": documents}, *lines)


def _line(shipped: ShippingResult) -> str:
    if shipped.again:
        how = "already shipped, "
    else:
        how = f"{plural(shipped.sent, 'file')} sent; " if shipped.sent < shipped.shards else ""
    return (
        f"site {shipped.site}: {how}{plural(shipped.shards, 'shard')}, "
        f"{human_bytes(shipped.bytes)}, "
        f"to {shipped.destination}"
    )
