"""What became of the files in the inbox, in words."""

from __future__ import annotations

from collections.abc import Iterator

from sltool.server.intake.result import IntakeResult
from sltool.server.intake.status import gaps
from sltool.study.layout import StudyFolder
from sltool.wording import plural


def intake_notes(folder: StudyFolder, intake: IntakeResult) -> Iterator[str]:
    """A line for each kind of outcome, and one for each file that was not accepted."""
    if intake.accepted:
        yield f"{plural(len(intake.accepted), 'shard')} accepted"
    if intake.already:
        yield f"{plural(len(intake.already), 'shard')} had been accepted before"
    for file in intake.rejected:
        yield f"{file.name} was refused: {file.error.what} (see server/rejected)"
    for file in intake.quarantined:
        yield f"{file.name} is {file.error.what} (`sltool queue approve {file.name}`)"
    for file in intake.left:
        yield f"{file.name} stays in the inbox: {file.error}"
    for file in intake.vanished:
        yield f"{file.name} was gone before it had been read"
    for name in intake.arriving:
        yield f"{name} is still being copied; it was left alone"
    for name, runs in intake.withdrawn.items():
        seen = f"runs that saw the rows: {' '.join(runs)}" if runs else "no run saw the rows"
        yield f"{name} was taken in; {seen}"
    yield from map(str, gaps(folder))
