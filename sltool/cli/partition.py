"""`sltool partition`."""

from __future__ import annotations

from typing import Annotated

import typer

from sltool.cli.command import ForceOption, SeedOption, Terminal, command


def add_to(app: typer.Typer) -> None:
    command(app, "partition")(partition)


def partition(
    terminal: Terminal,
    ratios: Annotated[
        str, typer.Option("--ratios", metavar="N:N:N", help="Simulated sites and their shares.")
    ] = "7:2:1",
    site: Annotated[
        str | None,
        typer.Option(
            "--site", metavar="NAME", help="At a real hospital: all rows are this site's."
        ),
    ] = None,
    seed: SeedOption = 0,
    force: ForceOption = False,
) -> None:
    """Split the samples and share them over sites A, B, C ..., or make one real site."""
    from sltool.site.sites import make_sites

    outcome = make_sites(terminal.folder, ratios, site, seed, force, terminal)
    if outcome.again:
        terminal.note("already partitioned (--force partitions again)")
    head = ["site", "train", "validation", "test"]
    rows = [[name, *(str(n) for n in counts.values())] for name, counts in outcome.counts.items()]
    terminal.table({"sites": outcome.counts}, head, rows)
