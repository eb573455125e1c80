"""A training session: adds new shards between epochs, and writes the files of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from sltool.errors import DivergedError
from sltool.files import remove
from sltool.models.base import build
from sltool.models.precision import Precision, choose_precision
from sltool.progress import Progress
from sltool.server.checkpoint import Checkpoint, load_checkpoint
from sltool.server.store import Store
from sltool.server.training.distributed import Ranks
from sltool.server.training.objective import Objective
from sltool.server.training.run_files import RunFiles
from sltool.server.training.run_settings import RunOptions, check_same, read_settings, settings_of
from sltool.server.training.shard_selection import ShardSelection
from sltool.server.training.stop import Stop
from sltool.server.training.trainer import Trainer
from sltool.server.training.watcher import WatcherReport, watching
from sltool.study.layout import RunFolder, StudyFolder
from sltool.study.schema import Study
from sltool.version import __version__
from sltool.wording import plural


class TrainingSession:
    """A run that trains: adds new shards between epochs, and writes the files of the run."""

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
        self._files = RunFiles(run, progress)
        self._reports: Callable[[], list[WatcherReport]] = list
        network = build(study, options.seed, folder.root).server_network
        precision = self._precision(network, device)
        self._settings = settings_of(study, store, options, precision)
        self.trainer = Trainer(
            network.to(device),
            Objective(study.samples.labels, study.training, study.encoding.label_epsilon),
            study.training,
            options.seed,
            precision,
            options.control,
            ranks,
        )
        self._begin()

    @contextmanager
    def reports(self) -> Iterator[None]:
        """Take shards in during training, if `options.watch` is set."""
        if not (self._options.watch and self._ranks.is_first):
            yield
            return
        with watching(self._folder, self._store.encoding) as self._reports:
            yield

    def go(self, stop: Stop) -> bool:
        """Train until the run is finished or stopped; True if it was finished before."""
        trainer, epochs = self.trainer, self._epochs
        finished_before = self._done
        if finished_before:
            self._note_unused_shards()
        else:
            bar = self._progress.bar(f"train {self._run.name}", epochs, trainer.epoch)
            with bar as advance:
                while not self._done and not self._ranks.any(stop()):
                    self._prepare_epoch()
                    try:
                        if not self._run_epoch(stop):
                            break
                    except DivergedError as error:
                        self._publish_best(error)
                        raise
                    advance(1)
            self._end(stop)
        if self._ranks.is_first:
            self._publish_model()
        return finished_before

    @property
    def _epochs(self) -> int:
        return min(self._study.training.epochs, self._options.max_epochs or 2**40)

    @property
    def _done(self) -> bool:
        return self.trainer.epoch >= self._epochs or self.trainer.stalled

    def _precision(self, network: torch.nn.Module, device: torch.device) -> Precision:
        """The precision of the run so far, unless the user asks for another."""
        if (
            self._options.precision == "auto"
            and self._run.settings.is_file()
            and not self._options.force
        ):
            name = read_settings(self._run)["precision"]
            return Precision(name, device, "as when the run began")
        precision = choose_precision(self._options.precision, network, device)
        self._progress.note(f"precision {precision.name}: {precision.reason}")
        return precision

    def _begin(self) -> None:
        """Start the run, or resume it if it was begun with the same settings."""
        run = self._run
        if self._ranks.is_first:
            if self._options.force:
                remove(run.checkpoint)
                remove(run.model)
            elif run.settings.is_file():
                check_same(run, read_settings(run), self._settings)
        if self._ranks.broadcast(run.checkpoint.is_file()):
            self._restore(load_checkpoint(run.checkpoint))
        else:
            self._join()

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.trainer.restore(checkpoint)
        self._selection.restore(checkpoint.shards)
        if not self._done:
            self._selection.check_sites()
        self._set_data()
        if checkpoint.history and self._ranks.is_first:
            # If the run was killed right after its checkpoint, its history lacks the last epoch.
            self._files.write_history(checkpoint.history)
        if not self._done:
            self._log(f"resumed after epoch {checkpoint.epoch}, step {checkpoint.step} of the next")

    def _prepare_epoch(self) -> None:
        """Let new shards join if a new epoch begins."""
        for report in self._reports():
            self._log_report(report)
        if not self.trainer.epoch_in_progress and self.trainer.epoch >= 1:
            self._join()

    def _log_report(self, report: WatcherReport) -> None:
        self.accepted += len(report.accepted)
        self.rejected += len(report.rejected)
        for name in report.accepted:
            self._log(f"accepted {name}")
        for name, reason in report.rejected:
            self._log(f"rejected {name}: {reason}")
            self._progress.note(f"{name} was refused: {reason} (see server/rejected)")
        for name, reason in report.left:
            self._log(f"left {name} in the inbox: {reason}")
            self._progress.note(f"{name} stays in the inbox: {reason}")
        if report.error:
            self._log(f"the watcher ended: {report.error}")
            self._progress.note(f"no more shards are taken in: {report.error}")

    def _join(self) -> None:
        """Train on the shards that have arrived, from the next epoch on."""
        epoch = self.trainer.epoch + 1
        if not self._selection.join(epoch):
            return
        self._set_data()
        if names := self._selection.joined_at(epoch):
            self._log(f"epoch {epoch}: joined {' '.join(names)}")
        self._log(f"samples per epoch: {_site_counts_text(self.trainer.site_counts)}")

    def _set_data(self) -> None:
        data = self._selection.data()
        if not len(data.validation):
            self._progress.note("no validation sample: the last epoch counts as the best")
        for index in self._selection.absent_classes():
            name = self._study.samples.labels.classes[index]
            self._progress.note(f"no training sample of the class '{name}' has arrived")
        done = self._done
        self.trainer.set_data(data)
        if not done:
            # A finished run is not changed, nor are its figures.
            for text in self.trainer.adjust_to_data():
                self._log(text)
        if self._ranks.is_first:
            meaning = self._study.meaning(self._folder.privacy_layer)
            document = {**self._settings, **self._selection.document(), "meaning": meaning}
            self._files.write_settings(document)

    def _run_epoch(self, stop: Stop) -> bool:
        """Train one epoch and write its files; False if it was interrupted."""
        row = self.trainer.run_epoch(stop)
        if row is None:
            return False
        counts = self.trainer.site_counts
        row["sites"] = " ".join(f"{site}={count}" for site, count in counts.items())
        joined = self._selection.joined_at(row["epoch"]) if row["epoch"] > 1 else []
        row["joined"] = " ".join(joined)
        self._save()
        if self._ranks.is_first:
            self._files.write_history(self.trainer.history)
        losses = ", ".join(f"{key} {row[key]:.5g}" for key in row if isinstance(row[key], float))
        self._log(f"epoch {self.trainer.epoch}: {losses}")
        return True

    def _save(self) -> None:
        checkpoint = self.trainer.checkpoint(self._selection.shards)
        if self._ranks.is_first:
            checkpoint.save(self._run.checkpoint)

    def _end(self, stop: Stop) -> None:
        """Write the last checkpoint, and log why training ends."""
        for report in self._reports():
            self._log_report(report)
        trainer = self.trainer
        if not self._done:
            self._save()
            self.stopped = stop.reason or "another process was asked to stop"
        elif trainer.stalled:
            self.stopped = f"no lower validation loss since epoch {trainer.last_improvement}"
        elif trainer.epoch < self._study.training.epochs:
            self.stopped = f"--max-epochs {self._options.max_epochs}"
        self._log(f"stopped: {self.stopped or 'all epochs are done'}")

    def _publish_best(self, error: DivergedError) -> None:
        """Publish the best epoch of a run that diverged, and say in the error what is available."""
        trainer = self.trainer
        error.where = str(self._run.root)
        error.hint += ", under another --run NAME or again with --force; "
        error.hint += (
            f"the checkpoint of epoch {trainer.epoch} and the model of epoch "
            f"{trainer.best.epoch} are available"
            if trainer.best.epoch
            else "no epoch was completed, so there is no checkpoint"
        )
        self._log(error.what)
        if self._ranks.is_first:
            self._publish_model()
        # Wait for all ranks: torchrun kills the others when the first process ends.
        self._ranks.broadcast(None)

    def _note_unused_shards(self) -> None:
        count = self._selection.unused_count()
        if count:
            self._progress.note(
                f"{plural(count, 'shard')} came after run '{self._run.name}' was finished: raise "
                "training.epochs, or start another --run"
            )

    def _publish_model(self) -> None:
        trainer, best = self.trainer, self.trainer.best
        if not best.epoch:
            return
        sites = _last_site_counts(trainer.history[: best.epoch])
        self._note_late_sites(sites)
        card = {
            "run": self._run.name,
            "study": self._study.id,
            "encoding": self._store.encoding,
            "model": self._settings["model"],
            "seed": self._options.seed,
            "sites": sites,
            "shards": self._selection.digests_until(best.epoch),
            "epochs": trainer.epoch,
            "best_epoch": best.epoch,
            "metrics": best.figures,
            "tool": f"sltool {__version__}",
        }
        self._files.write_model(best.network(), card)

    def _note_late_sites(self, sites: dict[str, int]) -> None:
        """Note that the published weights are from before a site joined."""
        late = [site for site in self.trainer.site_counts if site not in sites]
        if late:
            self._progress.note(
                f"site{'s' * (len(late) > 1)} {' '.join(late)} joined after epoch "
                f"{self.trainer.best.epoch}, which is still the best on the validation samples of "
                f"all sites: the model was trained on {' '.join(sites)} alone"
            )

    def _log(self, text: str) -> None:
        if self._ranks.is_first:
            self._files.log(text)


def _last_site_counts(history: list[dict[str, Any]]) -> dict[str, int]:
    """Each site in these epochs -> the count of its samples in the last epoch it was part of."""
    sites: dict[str, int] = {}
    for row in history:
        pairs = (pair.split("=") for pair in row["sites"].split())
        sites |= {site: int(count) for site, count in pairs}
    return dict(sorted(sites.items()))


def _site_counts_text(counts: dict[str, int]) -> str:
    total = sum(counts.values())
    return ", ".join(
        f"{plural(count, 'sample')} of {site} ({count / total:.1%})"
        for site, count in counts.items()
    )
