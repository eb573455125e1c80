"""Benchmarks, run by `make bench`. Each module `bench_NAME.py` has `rows() -> Iterator[Row]`.

A row is one line of the table: what was measured, the figure, the bar, and whether it is met.
Figures are ratios of two things timed in turn within one run, medians of `ROUNDS`, so that a busy
machine slows both alike.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

ROUNDS = 5


@dataclass(frozen=True)
class Row:
    """One line of the table; `met` is None where no bar was set."""

    what: str
    measured: str
    bar: str = "stated"
    met: bool | None = None


def seconds(work: Callable[[], object]) -> float:
    """How long one call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def in_turn(
    first: Callable[[], float], second: Callable[[], float], rounds: int = ROUNDS
) -> tuple[float, float, float]:
    """Medians of `first()`, of `second()` and of their ratio, called in turn `rounds` times."""
    pairs = [(first(), second()) for _ in range(rounds)]
    return (
        statistics.median(figure for figure, _ in pairs),
        statistics.median(reference for _, reference in pairs),
        statistics.median(figure / reference for figure, reference in pairs),
    )
