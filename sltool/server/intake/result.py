"""The outcome of reading the inbox once."""

from __future__ import annotations

from dataclasses import dataclass, field

from sltool.errors import SltoolError


@dataclass(frozen=True)
class Rejected:
    """A file that was not accepted, and the reason."""

    name: str
    error: SltoolError


@dataclass
class IntakeResult:
    """The outcome of reading the inbox once, by file name.

    Attributes:
        already: files that had been accepted before.
        rejected: files that were moved to `rejected/`.
        quarantined: files that were moved to `held/`, for a person to approve.
        left: files that stay in the inbox: this server cannot process them now, or cannot move
            them.
        vanished: files that disappeared before they could be read.
        arriving: files that are still being copied, left in the inbox.
        withdrawn: accepted withdrawals -> the runs whose checkpoints depend on the rows.
    """

    accepted: list[str] = field(default_factory=list)
    already: list[str] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    quarantined: list[Rejected] = field(default_factory=list)
    left: list[Rejected] = field(default_factory=list)
    vanished: list[Rejected] = field(default_factory=list)
    arriving: list[str] = field(default_factory=list)
    withdrawn: dict[str, list[str]] = field(default_factory=dict)

    @property
    def not_accepted(self) -> list[Rejected]:
        """The files that need a person's attention."""
        return [*self.rejected, *self.quarantined, *self.left]
