"""How the stages report progress without printing: `cli/` hands in a `Progress`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[[int], None]


class Progress(Protocol):
    """What a stage may tell its user while it works."""

    def bar(self, what: str, total: int) -> AbstractContextManager[Advance]:
        """A bar over `total` steps; the value it yields advances it."""
        ...

    def note(self, text: str) -> None:
        """A line that the user should read."""
        ...

    def detail(self, text: str) -> None:
        """A line for `--verbose`."""
        ...


class Silent:
    """A `Progress` that says nothing: the default for library use."""

    @contextmanager
    def bar(self, what: str, total: int) -> Iterator[Advance]:
        yield lambda steps: None

    def note(self, text: str) -> None: ...

    def detail(self, text: str) -> None: ...


class Once:
    """Passes everything on to `progress`, but a note that was made before: for repeated stages."""

    def __init__(self, progress: Progress) -> None:
        self.bar = progress.bar
        self.detail = progress.detail
        self._note = progress.note
        self._made: set[str] = set()

    def note(self, text: str) -> None:
        if text not in self._made:
            self._made.add(text)
            self._note(text)
