"""A run under way: which shards take part from which epoch on, and what is written when."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from sltool.errors import DivergedError
from sltool.files import remove
from sltool.models.base import build
from sltool.progress import Progress
from sltool.server.checkpoint import Checkpoint, load_checkpoint
from sltool.server.store import Store
from sltool.server.training.distributed import Ranks
from sltool.server.training.objective import Objective
from sltool.server.training.precision import Precision, choose_precision
from sltool.server.training.run_files import RunFiles
from sltool.server.training.run_settings import RunOptions, check_same, read_settings, settings_of
from sltool.server.training.shard_selection import ShardSelection
from sltool.server.training.stop import Stop
from sltool.server.training.trainer import Trainer
from sltool.server.training.watcher import WatcherReport, watching
from sltool.study.layout import RunFolder, StudyFolder
from sltool.study.schema import Study
from sltool.version import __version__


class TrainingSession:
    """A run under way: which shards take part from which epoch on, and what is written when."""

    def __init__(
        self,
        folder: StudyFolder,
        study: Study,
        store: Store,
        options: RunOptions,
        run: RunFolder,
        device: torch.device,
        progress: Progress,
        ranks: Ranks,
    ) -> None:
        self.stopped = ""
        self.accepted = self.rejected = 0
        self._folder = folder
        self._study = study
        self._store = store
        self._selection = ShardSelection(store, options.sites, folder.inbox, ranks)
        self._options = options
        self._run = run
        self._progress = progress
        self._ranks = ranks
        self._record = RunFiles(run, progress)
        self._reports: Callable[[], list[WatcherReport]] = list
        network = build(study, options.seed, folder.root).server_network
        precision = self._precision(network, device)
        self._settings = settings_of(study, store, options, precision)
        self.trainer = Trainer(
            network.to(device),
            Objective(study.samples.labels, study.training),
            study.training,
            options.seed,
            precision,
            options.control,
            ranks,
        )
        self._begin()

    @contextmanager
    def reports(self) -> Iterator[None]:
        """Take shards in meanwhile, if the plan says so."""
        if not (self._options.watch and self._ranks.is_first):
            yield
            return
        with watching(self._folder, self._store.encoding) as self._reports:
            yield

    def go(self, stop: Stop) -> bool:
        """Train until the run is done or shall stop; True if it had been done before."""
        trainer, epochs = self.trainer, self._epochs
        if self._done:
            self._note_left_out()
            again = True
        else:
            again = False
            with self._progress.bar(f"train {self._run.name}", epochs) as advance:
                advance(trainer.epoch)
                while not self._done and not self._ranks.any(stop()):
                    self._prepare_epoch()
                    try:
                        if not self._run_epoch(stop):
                            break
                    except DivergedError as error:
                        self._leave_what_is_good(error)
                        raise
                    advance(1)
            self._end(stop)
        if self._ranks.is_first:
            self._publish_model()
        return again

    @property
    def _epochs(self) -> int:
        return min(self._study.training.epochs, self._options.max_epochs or 2**40)

    @property
    def _done(self) -> bool:
        return self.trainer.epoch >= self._epochs or self.trainer.stalled

    def _precision(self, network: torch.nn.Module, device: torch.device) -> Precision:
        """Of a run that has begun: as it began, unless the user names another."""
        if (
            self._options.precision == "auto"
            and self._run.settings.is_file()
            and not self._options.force
        ):
            name = read_settings(self._run)["precision"]
            return Precision(name, device, "as the run began")
        precision = choose_precision(self._options.precision, network, device)
        self._progress.note(f"precision {precision.name}: {precision.reason}")
        return precision

    def _begin(self) -> None:
        """Start the run, or take up its checkpoint if it was begun with the same settings."""
        run = self._run
        if self._ranks.is_first:
            if self._options.force:
                remove(run.checkpoint)
                remove(run.model)
            elif run.settings.is_file():
                check_same(run, read_settings(run), self._settings)
        found = self._ranks.broadcast(run.checkpoint.is_file())
        if found:
            self._take_up(load_checkpoint(run.checkpoint))
        else:
            self._join()

    def _take_up(self, checkpoint: Checkpoint) -> None:
        self.trainer.restore(checkpoint)
        self._selection.take_up(checkpoint.shards)
        if not self._done:
            self._selection.check_sites()
        self._use()
        if checkpoint.history and self._ranks.is_first:
            # A run that was killed right after its checkpoint lacks the last epoch there.
            self._record.history(checkpoint.history)
        if not self._done:
            self._say(f"goes on after epoch {checkpoint.epoch}, step {checkpoint.step} of the next")

    def _prepare_epoch(self) -> None:
        """Let new shards join, if an epoch begins."""
        for one in self._reports():
            self._tell(one)
        if not self.trainer.begun and self.trainer.epoch >= 1:
            self._join()

    def _tell(self, reports: WatcherReport) -> None:
        self.accepted += len(reports.accepted)
        self.rejected += len(reports.rejected)
        for name in reports.accepted:
            self._say(f"accepted {name}")
        for name, reason in reports.rejected:
            self._say(f"rejected {name}: {reason}")
            self._progress.note(f"{name} was refused: {reason} (see server/rejected)")
        for name, reason in reports.left:
            self._say(f"left {name} in the inbox: {reason}")
            self._progress.note(f"{name} stays in the inbox: {reason}")
        if reports.error:
            self._say(f"the watch ended: {reports.error}")
            self._progress.note(f"no more shards are taken in: {reports.error}")

    def _join(self) -> None:
        """Let the shards that have arrived take part from the next epoch on."""
        epoch = self.trainer.epoch + 1
        if not self._selection.join(epoch):
            return
        self._use()
        if names := self._selection.since(epoch):
            self._say(f"epoch {epoch}: joined {' '.join(names)}")
        self._say(f"an epoch takes {_shares(self.trainer.shares)}")

    def _use(self) -> None:
        data = self._selection.data()
        if not len(data.validation):
            self._progress.note("no validation sample: the last epoch is taken as the best")
        for number in self._selection.absent_classes():
            name = self._study.samples.labels.classes[number]
            self._progress.note(f"no training sample of the class '{name}' has arrived")
        done = self._done
        self.trainer.use(data)
        if not done:
            # A run that is done stays as it is, with the figures that it was done with.
            for text in self.trainer.settle():
                self._say(text)
        if self._ranks.is_first:
            self._record.settings({**self._settings, **self._selection.documents()})

    def _run_epoch(self, stop: Stop) -> bool:
        """One epoch and all that is written after it; False if it was left."""
        row = self.trainer.run_epoch(stop)
        if row is None:
            return False
        row["sites"] = " ".join(f"{site}={n}" for site, n in self.trainer.shares.items())
        row["joined"] = " ".join(self._selection.since(row["epoch"])) if row["epoch"] > 1 else ""
        self._save()
        if self._ranks.is_first:
            self._record.history(self.trainer.history)
        losses = ", ".join(f"{key} {row[key]:.5g}" for key in row if isinstance(row[key], float))
        self._say(f"epoch {self.trainer.epoch}: {losses}")
        return True

    def _save(self) -> None:
        checkpoint = self.trainer.checkpoint(self._selection.shards)
        if self._ranks.is_first:
            checkpoint.save(self._run.checkpoint)

    def _end(self, stop: Stop) -> None:
        """Write the last checkpoint, and say why training ends."""
        for one in self._reports():
            self._tell(one)
        trainer = self.trainer
        if not self._done:
            self._save()
            self.stopped = stop.reason or "another process was told to stop"
        elif trainer.stalled:
            self.stopped = f"no lower validation loss since epoch {trainer.stands_since}"
        elif trainer.epoch < self._study.training.epochs:
            self.stopped = f"--max-epochs {self._options.max_epochs}"
        self._say(f"stopped: {self.stopped or 'all epochs are done'}")

    def _leave_what_is_good(self, error: DivergedError) -> None:
        """Publish the best epoch of a run that diverged, and tell what there is."""
        trainer = self.trainer
        error.where = str(self._run.root)
        error.hint += ", under another --run NAME or anew with --force; "
        error.hint += (
            f"the checkpoint of epoch {trainer.epoch} stays, and the model of epoch "
            f"{trainer.best.epoch}"
            if trainer.best.epoch
            else "no epoch was done before, so there is no checkpoint"
        )
        self._say(error.what)
        if self._ranks.is_first:
            self._publish_model()
        # The first process to end ends the job.
        self._ranks.broadcast(None)

    def _note_left_out(self) -> None:
        left = self._selection.left_out()
        if left:
            self._progress.note(
                f"{left} shards came after run '{self._run.name}' was done: give it more "
                "training.epochs, or begin another --run"
            )

    def _publish_model(self) -> None:
        trainer, best = self.trainer, self.trainer.best
        if not best.epoch:
            return
        sites = _trained_on(trainer.history[: best.epoch])
        self._note_missing(sites)
        card = {
            "run": self._run.name,
            "study": self._study.id,
            "encoding": self._store.encoding,
            "model": self._settings["model"],
            "seed": self._options.seed,
            "sites": sites,
            "shards": self._selection.behind(best.epoch),
            "epochs": trainer.epoch,
            "best_epoch": best.epoch,
            "metrics": best.figures,
            "tool": f"sltool {__version__}",
        }
        self._record.model(best.network(), card)

    def _note_missing(self, sites: dict[str, int]) -> None:
        """Tell that the published weights are from before a site joined."""
        late = [site for site in self.trainer.shares if site not in sites]
        if late:
            self._progress.note(
                f"site{'s' * (len(late) > 1)} {' '.join(late)} joined after epoch "
                f"{self.trainer.best.epoch}, which is still the best on the validation samples of "
                f"all: the model was trained on {' '.join(sites)} alone"
            )

    def _say(self, text: str) -> None:
        if self._ranks.is_first:
            self._record.say(text)


def _trained_on(history: list[dict[str, Any]]) -> dict[str, int]:
    """Every site in these epochs, with its samples in the last epoch of which it was a part."""
    sites: dict[str, int] = {}
    for row in history:
        sites |= {site: int(n) for site, n in (pair.split("=") for pair in row["sites"].split())}
    return dict(sorted(sites.items()))


def _shares(counts: dict[str, int]) -> str:
    total = sum(counts.values())
    return ", ".join(f"{n} samples of {site} ({n / total:.1%})" for site, n in counts.items())
