"""How the stages report progress without printing: `cli/` passes them a `Progress`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[[int], None]


class Progress(Protocol):
    """Receives the reports of a stage while it runs."""

    def bar(self, what: str, total: int) -> AbstractContextManager[Advance]:
        """A bar of `total` steps; yields a function that advances it by a number of steps."""
        ...

    def note(self, text: str) -> None:
        """A line that is always shown."""
        ...

    def detail(self, text: str) -> None:
        """A line that is shown with `--verbose`."""
        ...


class Silent:
    """A `Progress` that reports nothing: the default for library use."""

    @contextmanager
    def bar(self, what: str, total: int) -> Iterator[Advance]:
        yield lambda steps: None

    def note(self, text: str) -> None: ...

    def detail(self, text: str) -> None: ...


class DistinctNotes:
    """Forwards to `progress`, dropping repeated notes; for stages that are run several times."""

    def __init__(self, progress: Progress) -> None:
        self.bar = progress.bar
        self.detail = progress.detail
        self._note = progress.note
        self._seen: set[str] = set()

    def note(self, text: str) -> None:
        if text not in self._seen:
            self._seen.add(text)
            self._note(text)
