"""single:C: the same network trained on one site alone, tested on the test rows of all sites."""

from __future__ import annotations

from pathlib import Path

from sltool.experiments.arm_files import TrainingSummary
from sltool.experiments.trial import Trial


def run(site: str, trial: Trial, target: Path) -> TrainingSummary:
    """The server's stages on the shards of one site; its own validation rows select the epoch."""
    return trial.train(trial.feature_maps, f"single-{site}", [site], target)
