"""single:C: one site alone with the same layers; tested on the test rows of all sites."""

from __future__ import annotations

from pathlib import Path

from sltool.experiments.bench import Bench
from sltool.experiments.engine import train_run
from sltool.experiments.outcome import Outcome


def run(site: str, bench: Bench, target: Path) -> Outcome:
    """The server's stages on the shards of one site; its own validation rows choose the epoch."""
    side = bench.split
    return train_run(
        side.folder,
        side.study,
        side.store,
        f"single-{site}",
        [site],
        bench.seed,
        bench.device,
        bench.progress,
        target,
    )
