"""Saying what became of the files in the inbox."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sltool.cli.command import Terminal

if TYPE_CHECKING:
    from sltool.server.intake.result import IntakeResult, Rejected


def report_intake(terminal: Terminal, intake: IntakeResult) -> None:
    """One line for each kind of outcome, and one for each file that was not accepted."""
    from sltool.server.intake.status import gaps

    if intake.accepted:
        terminal.note(f"{len(intake.accepted)} shards accepted")
    if intake.already:
        terminal.note(f"{len(intake.already)} shards had been accepted before")
    for one in intake.rejected:
        terminal.note(f"{one.name} was refused: {one.error.what} (see server/rejected)")
    for one in intake.quarantined:
        terminal.note(f"{one.name} is {one.error.what} (`sltool queue approve {one.name}`)")
    for one in intake.left:
        terminal.note(f"{one.name} stays in the inbox: {one.error}")
    for one in intake.vanished:
        terminal.note(f"{one.name} was gone before it had been read")
    for name in intake.arriving:
        terminal.note(f"{name} is still being copied; it was left alone")
    for name, runs in intake.withdrawn.items():
        saw = f"runs that saw the rows: {' '.join(runs)}" if runs else "no run saw the rows"
        terminal.note(f"{name} was taken in; {saw}")
    for gap in gaps(terminal.folder):
        terminal.note(str(gap))


def intake_document(intake: IntakeResult) -> dict[str, Any]:
    """The same as a JSON document."""
    return {
        "accepted": intake.accepted,
        "already": intake.already,
        "rejected": _reasons(intake.rejected),
        "held": _reasons(intake.quarantined),
        "left": _reasons(intake.left),
        "vanished": [one.name for one in intake.vanished],
        "arriving": intake.arriving,
        "withdrawn": intake.withdrawn,
    }


def _reasons(outcome: list[Rejected]) -> list[dict[str, str]]:
    return [{"file": one.name, "reason": one.error.what} for one in outcome]
