"""single:C: one site alone with the same layers; tested on the test rows of all sites."""

from __future__ import annotations

from pathlib import Path

from sltool.experiments.bench import Bench
from sltool.experiments.outcome import Outcome


def run(site: str, bench: Bench, target: Path) -> Outcome:
    """The server's stages on the shards of one site; its own validation rows choose the epoch."""
    return bench.train(bench.split, f"single-{site}", [site], target)
