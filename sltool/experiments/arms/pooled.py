"""pooled: all raw data in one place, the network unsplit and trained whole: the upper bound."""

from __future__ import annotations

from pathlib import Path

from sltool.experiments.bench import Bench
from sltool.experiments.outcome import Outcome


def run(bench: Bench, target: Path) -> Outcome:
    """The server's stages at cut 0: the first layers learn too, from the same views."""
    return bench.train(bench.raw, "pooled", [], target)
