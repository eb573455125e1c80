"""What somebody types next, as `sltool status` names it."""

from __future__ import annotations

from typing import NamedTuple


class NextStep(NamedTuple):
    """A command and why it comes next; the command is '' where there is nothing to type."""

    command: str
    why: str

    def __str__(self) -> str:
        return f"{self.command}  ({self.why})" if self.command else self.why
