"""multi: spatio-temporal split learning over all sites, the paper's method."""

from __future__ import annotations

from pathlib import Path

from sltool.experiments.arm_files import TrainingSummary
from sltool.experiments.trial import Trial


def run(trial: Trial, target: Path) -> TrainingSummary:
    """The server's stages on the shards of all sites."""
    return trial.train(trial.feature_maps, "multi", [], target)
