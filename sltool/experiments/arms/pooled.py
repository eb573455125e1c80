"""pooled: all raw data in one place, the whole network trained without a cut: the upper bound."""

from __future__ import annotations

from pathlib import Path

from sltool.experiments.arm_files import TrainingSummary
from sltool.experiments.trial import Trial


def run(trial: Trial, target: Path) -> TrainingSummary:
    """The server's stages at cut 0: the first layers are trained too, on the same views."""
    return trial.train(trial.raw, "pooled", [], target)
