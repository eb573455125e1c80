"""multi: spatio-temporal split learning over all sites, the paper's method."""

from __future__ import annotations

from pathlib import Path

from sltool.experiments.bench import Bench
from sltool.experiments.outcome import Outcome


def run(bench: Bench, target: Path) -> Outcome:
    """The server's stages on the shards of all sites."""
    return bench.train(bench.split, "multi", [], target)
