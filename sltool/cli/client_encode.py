"""`sltool client-encode`."""

from __future__ import annotations

from typing import Annotated

import typer

from sltool.cli.command import (
    DeviceOption,
    ForceOption,
    Terminal,
    command,
    human_bytes,
    one_or_all,
    pick_device,
)


def add_to(app: typer.Typer) -> None:
    command(app, "client-encode")(client_encode)


def client_encode(
    terminal: Terminal,
    site: Annotated[
        str | None, typer.Option("--site", metavar="NAME", help="Default: every site here.")
    ] = None,
    shard_mib: Annotated[
        int,
        typer.Option("--shard-mib", min=1, max=1024, help="Feature maps in a shard, at most."),
    ] = 256,
    device: DeviceOption = "auto",
    force: ForceOption = False,
) -> None:
    """Run the privacy layer over a site's samples.

    Writes signed shards to outbox/SITE: what may leave the hospital. They are pseudonymised
    personal data.
    """
    from sltool.site.encode import encode
    from sltool.study.study_file import load_study

    folder = terminal.folder
    study = load_study(folder)
    where = pick_device(device)
    done = [
        encode(folder, study, name, terminal, where, shard_mib * 2**20, force)
        for name in one_or_all(terminal, site, "sltool partition")
    ]
    documents = [
        {
            "site": one.site,
            "samples": one.samples,
            "shards": one.shards,
            "bytes": one.bytes,
            "seconds": round(one.seconds, 3),
            "samples_per_second": round(one.samples / one.seconds, 1),
            "already_encoded": one.again,
            "dead_values": None if one.dead is None else round(one.dead, 4),
        }
        for one in done
    ]
    lines = [
        f"site {one.site}: {'already encoded, ' if one.again else ''}{one.samples} samples in "
        f"{one.shards} shards, {human_bytes(one.bytes)}, in {folder.site(one.site).outbox}"
        for one in done
    ]
    terminal.result(documents[0] if len(done) == 1 else {"sites": documents}, *lines)
