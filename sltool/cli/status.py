"""`sltool status`."""

from __future__ import annotations

import typer

from sltool.cli.command import Terminal, command


def add_to(app: typer.Typer) -> None:
    command(app, "status")(status)


def status(terminal: Terminal) -> None:
    """Show what has arrived, what is missing, held or refused.

    The shards of each site and split, gaps in their numbers, files that wait or were refused,
    withdrawals, risks that a site accepted, and the runs.
    """
    from sltool.server.intake.status import read_status

    found = read_status(terminal.folder)
    for gap in found.gaps:
        terminal.note(str(gap))
    for one in found.quarantined:
        terminal.note(f"{one['file']} is {one['reason']} (`sltool queue approve {one['file']}`)")
    for one in found.rejected:
        terminal.note(f"{one['file']} was refused: {one['reason']} (see server/rejected)")
    for risk in found.accepted_risks:
        terminal.note(
            f"site {risk.site} shipped {risk.shards} shards against the study's privacy limits "
            f"({risk.refusal}); its reason: {risk.reason}"
        )
    for one in found.withdrawals:
        runs = " ".join(one["runs"]) or "none"
        terminal.note(f"{one['file']} was taken in; runs that saw the rows: {runs}")
    if found.waiting:
        terminal.note(f"{found.waiting} files wait in the inbox")
    terminal.table(
        found.document(),
        ["site", "split", "shards", "samples"],
        [[one.site, one.split, str(one.shards), str(one.samples)] for one in found.arrived],
    )
