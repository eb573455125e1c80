"""`sltool audit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from sltool.cli import completion
from sltool.cli.command import (
    DeviceOption,
    ForceOption,
    Terminal,
    command,
    one_or_all,
)
from sltool.cli.layout import aligned

SHOWN = ("leak", "ssim", "psnr", "linkage_top1", "exact_recovery")


def add_to(app: typer.Typer) -> None:
    command(app, "audit", kept="an audit is written whole or not at all")(audit)


def audit(
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
    budget: Annotated[
        Literal["quick", "thorough"],
        typer.Option("--budget", help="quick: about a minute. thorough: up to an hour."),
    ] = "quick",
    auxiliary: Annotated[
        Path | None,
        typer.Option(
            "--auxiliary",
            metavar="DIR",
            help="A folder of public images: for an attacker who knows no patient.",
        ),
    ] = None,
    device: DeviceOption = "auto",
    force: ForceOption = False,
) -> None:
    """Attack a site's own shards: what would one rebuild who holds them?

    Runs in the hospital, between client-encode and ship. Writes sites/SITE/audit.json and a page
    with pictures of patients, audit.html. Neither leaves the hospital.
    """
    from sltool.api import Site

    study = terminal.open_study()
    done = [
        Site(study, name).audit(budget, auxiliary=auxiliary, device=device, force=force)
        for name in one_or_all(terminal, site, "sltool partition")
    ]
    documents = [_flat(found) for found in done]
    lines = [line for found in done for line in _lines(found)]
    terminal.result(documents[0] if len(done) == 1 else {"sites": documents}, *lines)


def _flat(found: dict[str, Any]) -> dict[str, Any]:
    """The result with its figures as plain numbers; null where one is not defined."""
    return {
        "site": found["site"],
        "attack": found["attack"],
        **{name: found[name]["value"] if name in found else None for name in SHOWN},
        "distance_correlation": found["distance_correlation"],
        "budget": found["budget"],
        "converged": found["converged"],
        "sentence": found["sentence"],
        "differential_privacy": found.get("differential_privacy"),
        "warnings": found["warnings"],
    }


def _lines(found: dict[str, Any]) -> list[str]:
    rows = [
        [name, *(f"{found[name][key]:.3f}" for key in ("value", "low", "high"))]
        for name in SHOWN
        if name in found
    ]
    table = aligned([f"site {found['site']}, {found['attack']}", "value", "low", "high"], rows)
    guarantee = found.get("differential_privacy") or {"covered": []}
    return [*table, found["sentence"], *guarantee["covered"], *found["warnings"]]
