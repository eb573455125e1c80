"""Saying what became of the files in the inbox."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sltool.cli.command import Terminal

if TYPE_CHECKING:
    from sltool.server.intake.result import IntakeResult, Rejected


def report_intake(terminal: Terminal, intake: IntakeResult) -> None:
    """Print what became of each file."""
    from sltool.server.intake.notes import intake_notes

    for note in intake_notes(terminal.folder, intake):
        terminal.note(note)


def intake_document(intake: IntakeResult) -> dict[str, Any]:
    """The same as a JSON document."""
    return {
        "accepted": intake.accepted,
        "already": intake.already,
        "rejected": _reasons(intake.rejected),
        "held": _reasons(intake.quarantined),
        "left": _reasons(intake.left),
        "vanished": [file.name for file in intake.vanished],
        "arriving": intake.arriving,
        "withdrawn": intake.withdrawn,
    }


def _reasons(outcome: list[Rejected]) -> list[dict[str, str]]:
    return [{"file": file.name, "reason": file.error.what} for file in outcome]
