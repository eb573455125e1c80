"""What one look into the inbox brought."""

from __future__ import annotations

from dataclasses import dataclass, field

from sltool.errors import SltoolError


@dataclass(frozen=True)
class Rejected:
    """A file that was not taken in, and why."""

    name: str
    error: SltoolError


@dataclass
class IntakeResult:
    """What one look into the inbox brought, by file name.

    Attributes:
        rejected, held: files that were moved to the folder of that name.
        left: files that stay in the inbox: this server cannot take them now, or could not move
            them.
        vanished: files that were gone before they had been read.
        arriving: files that were still being copied, left alone.
        withdrawn: withdrawals that were taken in, with the runs whose checkpoints saw the rows.
    """

    accepted: list[str] = field(default_factory=list)
    already: list[str] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    held: list[Rejected] = field(default_factory=list)
    left: list[Rejected] = field(default_factory=list)
    vanished: list[Rejected] = field(default_factory=list)
    arriving: list[str] = field(default_factory=list)
    withdrawn: dict[str, list[str]] = field(default_factory=dict)

    @property
    def not_taken(self) -> list[Rejected]:
        """What a person has to look at."""
        return [*self.rejected, *self.held, *self.left]
