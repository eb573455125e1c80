"""`sltool partition`."""

from __future__ import annotations

from typing import Annotated

import typer

from sltool.cli import completion
from sltool.cli.command import ForceOption, Terminal, command
from sltool.wording import plural


def add_to(app: typer.Typer) -> None:
    command(app, "partition", kept="the samples are divided anew")(partition)


def partition(
    terminal: Terminal,
    ratios: Annotated[
        str | None,
        typer.Option(
            "--ratios", metavar="N:N:N", help="Simulated sites and their shares. Default: 7:2:1."
        ),
    ] = None,
    sites: Annotated[
        int | None,
        typer.Option(
            "--sites", metavar="N", help="So many simulated sites of equal shares, such as 100."
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            "--by",
            metavar="COLUMN",
            help="A site for each value of a column of the source: hospital, scanner, year.",
        ),
    ] = None,
    skew: Annotated[
        float | None,
        typer.Option(
            "--skew",
            metavar="ALPHA",
            help="Simulated sites differ in their labels, by a Dirichlet distribution: 0.1 "
            "strongly, 100 hardly.",
        ),
    ] = None,
    quantity_skew: Annotated[
        float | None,
        typer.Option(
            "--quantity-skew", metavar="ALPHA", help="With --sites: they differ in size likewise."
        ),
    ] = None,
    site: Annotated[
        str | None,
        typer.Option(
            "--site",
            metavar="NAME",
            autocompletion=completion.sites,
            help="At a real hospital: all rows are this site's.",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            min=0,
            metavar="N",
            help="Of simulated sites, whose split and order it makes repeatable. Default: 0.",
        ),
    ] = None,
    force: ForceOption = False,
) -> None:
    """Split the samples; simulate sites, or make a real one.

    10 % are for validation, 10 % for testing, the rest for training (`split` in study.yaml). Each
    is shared over the sites; no patient is torn. Writes sites/NAME. What is random at a real site
    comes from the system's entropy. Patients who withdrew are left out.

    At a real site whose source has grown (`prepare` it again first), the new samples join: what is
    known keeps its pseudonym and split, and new samples of a known patient follow the patient.
    """
    study = terminal.open_study()
    outcome = study.partition(
        ratios,
        sites=sites,
        by=by,
        skew=skew,
        quantity_skew=quantity_skew,
        site=site,
        seed=seed,
        force=force,
    )
    if outcome.again:
        terminal.note("already partitioned (--force partitions again)")
    head = ["site", "train", "validation", "test"]
    rows = [[name, *(str(n) for n in counts.values())] for name, counts in outcome.counts.items()]
    document: dict[str, object] = {
        "division": outcome.division,
        "seed": outcome.seed,
        "sites": outcome.counts,
    }
    if outcome.new is not None:
        total = sum(outcome.new.values())
        terminal.note(
            f"{plural(total, 'new sample')} joined site {site}" if total else "no new sample"
        )
        rows.append(["new", *(str(n) for n in outcome.new.values())])
        document["new"] = outcome.new
    terminal.table(document, head, rows)
