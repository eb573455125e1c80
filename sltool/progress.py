"""How the stages report progress without printing: `cli/` passes them a `Progress`."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import ProgressColumn

# Columns of a terminal that has no room for a bar.
NARROW = 72
# A rate is that of the last hour: an epoch, or an attack of an audit, may take many minutes.
RATE_SECONDS = 3600.0

Advance = Callable[[int], None]


class Progress(Protocol):
    """Receives the reports of a stage while it runs."""

    def bar(self, what: str, total: int, done: int = 0) -> AbstractContextManager[Advance]:
        """A bar of `total` steps; yields a function that advances it by a number of steps.

        Args:
            done: steps of an earlier session, which tell nothing about the rate.
        """
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
    def bar(self, what: str, total: int, done: int = 0) -> Iterator[Advance]:
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
    def bar(self, what: str, total: int, done: int = 0) -> Iterator[Advance]:
        if not self.shows_bars:
            yield lambda steps: None
            return
        from rich.progress import Progress

        with Progress(
            *self._columns(),
            console=self._console,
            transient=True,
            speed_estimate_period=RATE_SECONDS,
        ) as progress:
            task = progress.add_task(what, total=total, completed=done)
            progress.advance(task, 0)  # The rate counts from here, not from the first step.
            yield lambda steps: progress.advance(task, steps)

    @property
    def shows_bars(self) -> bool:
        """Whether stderr is a terminal or a notebook; `FORCE_COLOR` makes a file neither."""
        return sys.stderr.isatty() or self._console.is_jupyter

    def _columns(self) -> list[ProgressColumn]:
        """What is done, rate and time left; a bar and the time so far where there is room."""
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        name, done = TextColumn("{task.description}"), MofNCompleteColumn()
        rate, left = _rate_column(), TimeRemainingColumn(compact=True)
        if self._console.width < NARROW:
            return [name, done, rate, left, TextColumn("left")]
        return [name, BarColumn(), done, rate, TimeElapsedColumn(), left, TextColumn("left")]

    def note(self, text: str) -> None:
        self.line(f"note: {text}")

    def detail(self, text: str) -> None:
        if self._verbose:
            self.line(text)

    def line(self, text: str) -> None:
        """Print a line above the bar, if there is one."""
        self._console.print(text, markup=False)


def _rate_column() -> ProgressColumn:
    """'12.3/s', or '4.1 s each' where a step takes longer than a second."""
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(rate_text(task.finished_speed or task.speed), style="progress.data.speed")

    return Rate()


def rate_text(speed: float | None) -> str:
    """A rate in steps a second, for people."""
    if not speed:
        return "-/s"
    return f"{speed:.3g}/s" if speed >= 1 else f"{1 / speed:.3g} s each"


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
