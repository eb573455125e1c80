"""How the stages report progress without printing: `cli/` passes them a `Progress`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console

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
    """A `Progress` that reports nothing."""

    @contextmanager
    def bar(self, what: str, total: int) -> Iterator[Advance]:
        yield lambda steps: None

    def note(self, text: str) -> None: ...

    def detail(self, text: str) -> None: ...


class RichProgress:
    """Bars and notes by rich, in a terminal and in a notebook: the default of `sltool.Study`."""

    def __init__(self, *, verbose: bool = False) -> None:
        self._verbose = verbose

    @functools.cached_property
    def _console(self) -> Console:
        from rich.console import Console

        return Console(stderr=True, soft_wrap=True, highlight=False)

    @contextmanager
    def bar(self, what: str, total: int) -> Iterator[Advance]:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console, transient=True) as progress:
            task = progress.add_task(what, total=total)
            yield lambda steps: progress.advance(task, steps)

    def note(self, text: str) -> None:
        self.line(f"note: {text}")

    def detail(self, text: str) -> None:
        if self._verbose:
            self.line(text)

    def line(self, text: str) -> None:
        """Print a line above the bar, if there is one."""
        self._console.print(text, markup=False)


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
