"""`server-train`: one run from the store to the best server network."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sltool.errors import StageOrderError, UnknownNameError
from sltool.machine import CTRL_C, TERMINATED
from sltool.progress import Progress
from sltool.server.store import Store
from sltool.server.training.run_settings import RunOptions, read_settings
from sltool.server.training.stop import Stop
from sltool.study.layout import RunFolder, StudyFolder
from sltool.study.schema import Study

if TYPE_CHECKING:
    import torch

    from sltool.server.training.distributed import Ranks


@dataclass(frozen=True)
class TrainingResult:
    """The outcome of `server-train`.

    Attributes:
        finished_before: nothing was trained, since the run was finished already.
        stopped: why it stopped before its last epoch; '' if it did not.
        accepted, rejected: counts of shards during training.
    """

    run: str
    sites: list[str]
    epochs: int
    best_epoch: int
    samples: int
    seconds: float
    samples_per_second: float
    finished_before: bool
    stopped: str
    accepted: int
    rejected: int

    @property
    def interrupted(self) -> bool:
        """Whether a signal asked it to stop."""
        return self.stopped in (CTRL_C, TERMINATED)


def train(
    folder: StudyFolder,
    study: Study,
    store: Store,
    options: RunOptions,
    device: torch.device,
    progress: Progress,
    ranks: Ranks | None = None,
) -> TrainingResult:
    """Train a run on the shards in the store, or resume it where it stopped.

    Raises:
        StageOrderError: no training samples of the requested sites have arrived.
        UsageError: the run was begun with other settings.
        BadDataError: a shard that the run has used is no longer in the store.
    """
    # Imported here: reading a run's record works without torch, which is slow to import.
    from sltool.server.training.distributed import Ranks
    from sltool.server.training.session import TrainingSession

    started = time.monotonic()
    ranks = ranks or Ranks()
    run = folder.run(
        options.run if options.resume else ranks.broadcast(_free_name(folder, options.run))
    )
    session = TrainingSession(folder, study, store, options, run, device, progress, ranks)
    with Stop(options.until).on_signals() as stop, session.reports():
        finished_before = session.go(stop)
    seconds = time.monotonic() - started
    trainer = session.trainer
    return TrainingResult(
        run=run.name,
        sites=list(trainer.site_counts),
        epochs=trainer.epoch,
        best_epoch=trainer.best.epoch,
        samples=sum(trainer.site_counts.values()),
        seconds=seconds,
        samples_per_second=trainer.trained_samples / seconds,
        finished_before=finished_before,
        stopped=session.stopped,
        accepted=session.accepted,
        rejected=session.rejected,
    )


def _free_name(folder: StudyFolder, name: str) -> str:
    """`name`, or `name-2`, `name-3` and so on: the first under which there is no run."""
    suffix, free = 2, name
    while folder.run(free).root.exists():
        free = f"{name}-{suffix}"
        suffix += 1
    return free


def find_run(folder: StudyFolder, name: str) -> RunFolder:
    """The folder of a run that has begun.

    Raises:
        UsageError: the name is not a valid one.
        UnknownNameError: no run has this name.
        StageOrderError: no run has begun.
    """
    run, names = folder.run(name), folder.run_names()
    if not names:
        raise StageOrderError(
            f"there is no run '{name}': no run has begun yet",
            where=folder.runs,
            hint="run `sltool server-train` first",
        )
    if name not in names:
        raise UnknownNameError.of("run", name, names)
    return run


def run_settings(run: RunFolder) -> dict[str, Any]:
    """The settings of a run that has a model, finished or not.

    Raises:
        StageOrderError: the run has no model yet.
        BadDataError: its record is damaged.
    """
    if not run.model.is_file():
        raise StageOrderError(
            f"run '{run.name}' has no trained model",
            where=run.root,
            hint=f"run `sltool server-train --run {run.name}` first",
        )
    return read_settings(run)
