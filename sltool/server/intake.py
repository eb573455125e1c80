"""What one look into the inbox brought."""

from __future__ import annotations

from dataclasses import dataclass, field

from sltool.errors import SltoolError


@dataclass(frozen=True)
class Rejected:
    """A file that was refused or held, and why."""

    name: str
    error: SltoolError


@dataclass
class Intake:
    """What one look into the inbox brought, by file name.

    Attributes:
        arriving: files that were still being copied, left alone.
        withdrawn: withdrawals that were taken in, with the runs whose checkpoints saw the rows.
    """

    accepted: list[str] = field(default_factory=list)
    already: list[str] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    held: list[Rejected] = field(default_factory=list)
    arriving: list[str] = field(default_factory=list)
    withdrawn: dict[str, list[str]] = field(default_factory=dict)
