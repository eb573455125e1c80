"""`sltool status`."""

from __future__ import annotations

import typer

from sltool.accounting import DELTA
from sltool.cli.command import Terminal, command


def add_to(app: typer.Typer) -> None:
    command(app, "status")(status)


def status(terminal: Terminal) -> None:
    """Show what has arrived, what is missing, held or refused.

    The shards of each site and split, gaps in their numbers, files that wait or were refused,
    withdrawals, risks that a site accepted, and the runs.
    """
    from sltool.api import Study

    found = Study(terminal.study, progress=terminal).status()
    for gap in found.gaps:
        terminal.note(str(gap))
    for file in found.quarantined:
        terminal.note(f"{file['file']} is {file['reason']} (`sltool queue approve {file['file']}`)")
    for file in found.rejected:
        terminal.note(f"{file['file']} was refused: {file['reason']} (see server/rejected)")
    for risk in found.accepted_risks:
        terminal.note(
            f"site {risk.site} shipped {risk.shards} shards against the study's privacy limits "
            f"({risk.refusal}); its reason: {risk.reason}"
        )
    for file in found.withdrawals:
        runs = " ".join(file["runs"]) or "none"
        terminal.note(f"{file['file']} was taken in; runs that saw the rows: {runs}")
    if found.epsilon is not None:
        terminal.note(
            f"the feature maps of one record in one encoding have epsilon {found.epsilon:.3g} at "
            f"delta {DELTA:g}; each site states that of a patient and of several encodings"
        )
    if found.waiting:
        terminal.note(f"{found.waiting} files wait in the inbox")
    terminal.table(
        found.document(),
        ["site", "split", "shards", "samples"],
        [[part.site, part.split, str(part.shards), str(part.samples)] for part in found.arrived],
    )
