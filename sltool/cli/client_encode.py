"""`sltool client-encode`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sltool.cli.command import (
    DeviceOption,
    ForceOption,
    Terminal,
    command,
    human_bytes,
    one_or_all,
)

if TYPE_CHECKING:
    from sltool.site.encode import EncodingResult


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
    backend: Annotated[
        Literal["auto", "torch", "numpy", "onnxruntime"],
        typer.Option("--backend", help="What computes the layer. auto: torch where installed."),
    ] = "auto",
    force: ForceOption = False,
) -> None:
    """Run the privacy layer over a site's samples.

    Writes signed shards to outbox/SITE: what may leave the hospital. They are pseudonymised
    personal data.
    """
    from sltool.api import Site

    study = terminal.open_study()
    done = [
        Site(study, name).encode(
            device=device, shard_bytes=shard_mib * 2**20, force=force, backend=backend
        )
        for name in one_or_all(terminal, site, "sltool partition")
    ]
    documents = [
        {
            "site": encoded.site,
            "samples": encoded.samples,
            "shards": encoded.shards,
            "bytes": encoded.bytes,
            "seconds": round(encoded.seconds, 3),
            "samples_per_second": round(encoded.samples / encoded.seconds, 1),
            "already_encoded": encoded.again,
            "dead_values": None if encoded.dead is None else round(encoded.dead, 4),
        }
        for encoded in done
    ]
    lines = [_line(encoded, terminal) for encoded in done]
    terminal.result(documents[0] if len(done) == 1 else {"sites": documents}, *lines)


def _line(encoded: EncodingResult, terminal: Terminal) -> str:
    again = "already encoded, " if encoded.again else ""
    return (
        f"site {encoded.site}: {again}{encoded.samples} samples in {encoded.shards} shards, "
        f"{human_bytes(encoded.bytes)}, in {terminal.folder.site(encoded.site).outbox}"
    )
