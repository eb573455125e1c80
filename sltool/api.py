"""The front door: what a notebook and the command line call.

A `Study` is a folder; its methods are the stages, each of which can be called again: what is done
is skipped. Every error is one of `sltool.errors`.

    study = sltool.Study.create("my-study", "cholesterol")
    study.prepare()
    study.partition((7, 2, 1))
    study.encode()
    study.ship()
    run = study.train()
    run.evaluate(["smape"], by="site")

Nothing here imports torch or pandas before a method needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sltool.errors import StageOrderError, UnknownNameError
from sltool.machine import available_cpus, need, pick_device
from sltool.progress import Progress, RichProgress, Silent
from sltool.study.layout import Level, Question, RunFolder, StudyFolder
from sltool.study.study_file import load_study

if TYPE_CHECKING:
    import pandas as pd

    from sltool.server.evaluation.compare import RunFigures
    from sltool.server.evaluation.evaluate import Evaluation
    from sltool.server.evaluation.operating_points import OperatingPoints
    from sltool.server.evaluation.proportions import Estimate
    from sltool.server.export.export import ExportResult
    from sltool.server.intake.queue import Queue
    from sltool.server.intake.result import IntakeResult
    from sltool.server.intake.status import Status
    from sltool.server.store import Store
    from sltool.server.training.distributed import Ranks
    from sltool.server.training.run import TrainingResult
    from sltool.server.training.run_settings import RunOptions
    from sltool.site.backend import Backend
    from sltool.site.encode import EncodingResult
    from sltool.site.partition_stage import PartitionResult
    from sltool.site.prepare import PreparationResult
    from sltool.site.ship import ShippingResult
    from sltool.site.withdraw import WithdrawalResult
    from sltool.study.schema import Study as Settings

SHARD_BYTES = 256 * 2**20


class Study:
    """A study's folder: what all have agreed on, and what is there of sites and server.

    Attributes:
        path: the folder.

    Args:
        path: a folder with a `study.yaml`.
        progress: who is told what goes on; by default bars and notes, in notebooks too.
    """

    def __init__(self, path: str | Path, *, progress: Progress | None = None) -> None:
        self.path = Path(path)
        self.progress: Progress = RichProgress() if progress is None else progress
        self._source: Path | None = None

    @classmethod
    def open(cls, path: str | Path = ".", *, progress: Progress | None = None) -> Study:
        """The study in a folder.

        Raises:
            StageOrderError: there is no study.yaml.
            StudyFileError: it is not valid.
        """
        study = cls(path, progress=progress)
        load_study(study.folder)
        return study

    @classmethod
    def create(
        cls,
        path: str | Path,
        dataset: str,
        *,
        source: str | Path | None = None,
        settings: Mapping[str, Any] | None = None,
        seed: int | None = None,
        progress: Progress | None = None,
    ) -> Study:
        """Make a study: `study.yaml` and the privacy layer, without reading any sample.

        A coordinator who has no data leaves `source` out; then the dataset's settings are its
        defaults and what `settings` says. A study that is there already is opened.

        Args:
            dataset: a name as in `sltool list datasets`.
            source: the dataset's file or folder, from whose layout settings follow; `prepare` reads
                it.
            settings: keys of study.yaml: `{"model.cut": 2, "training.epochs": 20}`.
            seed: of the privacy layer, which is then public; None: from the system's entropy.

        Raises:
            UnknownNameError: there is no such dataset or model.
            UsageError, StudyFileError: a setting is wrong.
            StudyMismatchError: the folder holds another study.
        """
        from sltool.coordinator.create import make_study

        study = cls(path, progress=progress)
        study._source = None if source is None else Path(source)
        _, notes = make_study(
            study.folder, dataset, study._source, _overrides(settings), seed, False, study.progress
        )
        for note in notes:
            study.progress.note(note)
        return study

    def __repr__(self) -> str:
        settings = self.settings
        sites = " ".join(settings.sites) or "none yet"
        return (
            f"Study({str(self.path)!r}): dataset {settings.dataset.name}, model "
            f"{settings.model.name} cut at {settings.model.cut}, sites {sites}"
        )

    @property
    def folder(self) -> StudyFolder:
        """Where every file of the study is."""
        return StudyFolder(self.path)

    @property
    def settings(self) -> Settings:
        """`study.yaml` as it is now; see `sltool.study.schema.Study`."""
        return load_study(self.folder)

    @property
    def sites(self) -> list[str]:
        """The names of the sites that study.yaml lists."""
        return list(self.settings.sites)

    @property
    def local_sites(self) -> list[str]:
        """The names of the sites whose private data is in this folder."""
        return self.folder.site_names()

    def site(self, name: str) -> Site:
        """A site whose data is in this folder.

        Raises:
            UnknownNameError: it is not.
        """
        if name not in self.local_sites:
            raise UnknownNameError.of(
                "site", name, self.local_sites, hint="run `partition` at the site first"
            )
        return Site(self, name)

    def prepare(
        self,
        source: str | Path | None = None,
        *,
        workers: int = 0,
        seed: int | None = None,
        force: bool = False,
    ) -> PreparationResult:
        """Read the dataset's source into `prepared.h5`, which is private.

        Args:
            source: its file or folder; by default what `create` was given.
            workers: processes that decode images; 0: one for each CPU.
            seed: of the privacy layer, if it has to be drawn anew.

        Returns:
            Counts of samples and classes, what was refused and why, and notes.

        Raises:
            BadDataError: the source cannot be used.
            StudyMismatchError: the study is agreed on, and does not fit its own settings.
        """
        from sltool.site.prepare_stage import prepare_study

        self._source = self._source if source is None else Path(source)
        return prepare_study(
            self.folder,
            None,
            self._source,
            [],
            workers or available_cpus(),
            seed,
            force,
            self.progress,
        )

    def partition(
        self,
        ratios: Sequence[float] | str = (7, 2, 1),
        *,
        site: str | None = None,
        seed: int | None = None,
        force: bool = False,
    ) -> PartitionResult:
        """Split the samples into training, validation and test, at simulated sites or a real one.

        Args:
            ratios: the simulated sites' shares of the samples.
            site: at a real hospital: all samples are this site's; `ratios` is not used.
            seed: of the simulation (default 0); a real site's split follows from no seed.

        Raises:
            StageOrderError: nothing is prepared.
            UsageError: the ratios leave a site empty, or other sites are here.
        """
        from sltool.site.partition_stage import make_sites

        shares = ratios if isinstance(ratios, str) else ":".join(map(str, ratios))
        return make_sites(self.folder, shares, site, seed, force, self.progress)

    def encode(self, *, device: str = "auto", force: bool = False) -> list[EncodingResult]:
        """`Site.encode` for every site whose data is in this folder."""
        return [site.encode(device=device, force=force) for site in self._here("sltool partition")]

    def ship(
        self, to: str | None = None, *, accept_risk: str | None = None, force: bool = False
    ) -> list[ShippingResult]:
        """`Site.ship` for every site whose data is in this folder."""
        sites = self._here("sltool partition")
        return [site.ship(to, accept_risk=accept_risk, force=force) for site in sites]

    def _here(self, stage: str) -> list[Site]:
        if not self.local_sites:
            raise StageOrderError(
                "there is no site's data here", where=self.folder.sites, hint=f"run `{stage}` first"
            )
        return [Site(self, name) for name in self.local_sites]

    def take_in(self) -> IntakeResult:
        """Take in the shards that have arrived, without training.

        Raises:
            BadDataError: study.yaml does not fit the shards that were accepted before.
            StorageError: no space or no permission.
        """
        from sltool.server.intake.lock import only_server

        with only_server(self.folder):
            intake = self._queue().take(self.progress)
        self._report(intake)
        return intake

    def train(
        self,
        run: str = "default",
        *,
        sites: Sequence[str] = (),
        seed: int = 0,
        site_weights: str = "proportional",
        max_samples_per_site: int | None = None,
        max_epochs: int | None = None,
        precision: str = "auto",
        device: str = "auto",
        force: bool = False,
    ) -> Run:
        """Take in what has arrived and train the server network; goes on where the run stopped.

        Args:
            run: its name.
            sites: whose shards; none: all.
            seed: of the first weights, the order of samples and dropout.
            site_weights: proportional, equal, or 'A=3,B=1': each site's share of an epoch.
            max_epochs: stop when the run has so many; by default training.epochs of study.yaml.
            precision: auto, fp32 or bf16.
            device: auto, cpu, cuda or cuda:N.

        Raises:
            StageOrderError: no training sample has arrived.
            UsageError: the run was begun with other settings.
            DivergedError: a loss became NaN or infinite.
        """
        from sltool.server.training.run_settings import RunOptions
        from sltool.server.training.sampler import SiteControl

        options = RunOptions(
            run=run,
            sites=list(sites),
            seed=seed,
            control=SiteControl.parse(site_weights, max_samples_per_site),
            precision=precision,
            force=force,
            max_epochs=max_epochs,
        )
        self.train_runs([options], device=device)
        return Run(self, run)

    def train_runs(
        self,
        options: Sequence[RunOptions],
        *,
        wait_for: Sequence[str] = (),
        device: str = "auto",
        on_intake: Callable[[IntakeResult], None] | None = None,
    ) -> Training | None:
        """As `train`, for several runs, with the options of `sltool server-train`.

        Runs in every process of torchrun; only the first one reports progress.

        Args:
            wait_for: begin when these sites have shipped.
            on_intake: is called with what each look into the inbox brought; by default it is
                reported as notes.

        Returns:
            None if it was stopped before enough shards had arrived.
        """
        need("torch", "training", "server")
        from sltool.server.intake.lock import only_server
        from sltool.server.training.distributed import join_ranks, local_device
        from sltool.server.training.run import train

        settings = self.settings
        for run in options:
            settings.check_sites([*run.sites, *run.control.weights, *wait_for])
            self.folder.run(run.run)  # A bad name is refused before anything is taken in.
        where = local_device(pick_device(device))
        with (
            join_ranks(where) as ranks,
            only_server(self.folder) if ranks.is_first else nullcontext(),
        ):
            progress = self.progress if ranks.is_first else Silent()
            queue = self._queue()
            report = on_intake or self._report
            intakes = _take_in(queue, options[0], wait_for, ranks, progress, report)
            if intakes is None:
                return None
            results = [
                train(self.folder, settings, queue.store, run, where, progress, ranks)
                for run in options
            ]
        return Training(results, intakes, ranks.is_first)

    @property
    def runs(self) -> list[str]:
        """The names of the runs that have begun."""
        return self.folder.run_names()

    def run(self, name: str = "default") -> Run:
        """A run that has begun.

        Raises:
            UnknownNameError: none has this name.
        """
        from sltool.server.training.run import find_run

        find_run(self.folder, name)
        return Run(self, name)

    def compare(self, *runs: str, split: str = "test", level: Level = "image") -> pd.DataFrame:
        """The figures of several runs, as `Run.evaluate` left them.

        Args:
            runs: names; none: every run that was evaluated on this split and level.

        Returns:
            A row a run: its sites, the number of samples, and a column for each metric.
        """
        import pandas as pd

        rows = [
            {"run": row.run, "sites": " ".join(row.sites), "samples": row.samples, **row.metrics}
            for row in self.compare_figures(runs, split=split, level=level)
        ]
        return pd.DataFrame(rows).set_index("run")

    def compare_figures(
        self, runs: Sequence[str] = (), *, split: str = "test", level: Level = "image"
    ) -> list[RunFigures]:
        """As `compare`, as objects and without pandas."""
        from sltool.server.evaluation.compare import compare_runs

        return compare_runs(self.folder, list(runs), Question(split, level))

    def status(self) -> Status:
        """What has arrived at the server, what is missing, and what waits for a person."""
        from sltool.server.intake.status import read_status

        return read_status(self.folder)

    def feature_maps(self, split: str = "test", *, site: str | None = None) -> FeatureMaps:
        """What the server holds of each sample: for a plot, or a look at what travels.

        Read from the shards that the server has accepted.

        Args:
            split: train, validation or test.
            site: one site's samples; None: all.

        Raises:
            StageOrderError: no such sample has arrived.
        """
        need("torch", "reading feature maps", "server")
        store = self._store()
        samples = store.samples(split, [site] if site else None)
        if not len(samples):
            raise StageOrderError(
                f"no {split} sample has arrived{f' of site {site}' if site else ''}",
                where=store.folder,
                hint="ship the sites' shards, then take them in with `Study.take_in()`",
            )
        first_views = samples.features[samples.rows].float().numpy()
        return FeatureMaps(
            maps=first_views,
            labels=samples.labels.numpy(),
            pseudonyms=samples.pseudonyms.astype(str),
            sites=np.array(samples.sites)[samples.site],
            classes=self.settings.samples.labels.classes,
        )

    def restore_store(self) -> IntakeResult:
        """Make the server's store again from the accepted shards, as after it was deleted."""
        from sltool.server.intake.lock import only_server
        from sltool.server.intake.result import IntakeResult

        intake = IntakeResult()
        self.progress.note("rebuilding the store from server/accepted")
        with only_server(self.folder):
            self._queue().restore(self.progress, intake)
        return intake

    def _report(self, intake: IntakeResult) -> None:
        from sltool.server.intake.notes import intake_notes

        for note in intake_notes(self.folder, intake):
            self.progress.note(note)

    def _store(self, run: RunFolder | None = None) -> Store:
        """The server's store, made again if it was deleted.

        Args:
            run: what is about to be evaluated: a run of another encoding is an error before that.
        """
        from sltool.server.evaluation.evaluate import check_run
        from sltool.server.intake.encoding_record import check_encoding
        from sltool.server.store import is_lost, open_store

        settings = self.settings
        store = open_store(self.folder, settings)
        check_encoding(self.folder, settings, store.encoding)
        if run is not None:
            check_run(run, settings, store)
        if is_lost(store, self.folder):
            self.restore_store()
            store = open_store(self.folder, settings)
        return store

    def _queue(self) -> Queue:
        from sltool.server.intake.queue import Queue

        return Queue(self.folder, self.settings)


@dataclass(frozen=True)
class Site:
    """One hospital's part of a study; its private data is in the study's folder."""

    study: Study
    name: str

    def __repr__(self) -> str:
        return f"Site({self.name!r} of {str(self.study.path)!r})"

    def encode(
        self,
        *,
        device: str = "auto",
        shard_bytes: int = SHARD_BYTES,
        force: bool = False,
        backend: Backend = "auto",
    ) -> EncodingResult:
        """Run the privacy layer over the site's samples, once; writes signed shards to the outbox.

        Args:
            device: of torch.
            shard_bytes: feature maps in a shard, at most.
            backend: torch, numpy, onnxruntime, or auto: torch where it is installed.

        Raises:
            StageOrderError: there is no private data or no key of this site.
            StudyMismatchError: the site's key is not the one in study.yaml.
            MissingPackageError: only torch computes this privacy layer, and it is not installed.
        """
        from sltool.site.backend import choose_backend
        from sltool.site.encode import encode

        study = self.study
        with_torch = choose_backend(backend, study.folder, device) == "torch"
        return encode(
            study.folder,
            study.settings,
            self.name,
            study.progress,
            pick_device(device) if with_torch else None,
            shard_bytes,
            force,
        )

    def audit(
        self,
        budget: str = "quick",
        *,
        auxiliary: str | Path | None = None,
        device: str = "auto",
        force: bool = False,
    ) -> dict[str, Any]:
        """Attack the site's own shards; writes `audit.json` and `audit.html`, which are private.

        Args:
            budget: quick (about a minute) or thorough.
            auxiliary: a folder of public images, for an attacker who knows no patient.
        """
        need("torch", "an audit", "server")
        from sltool.site.audit.site import audit_site

        study = self.study
        return audit_site(
            study.folder,
            study.settings,
            self.name,
            budget,
            None if auxiliary is None else Path(auxiliary),
            pick_device(device),
            study.progress,
            force,
        )

    def ship(
        self, to: str | None = None, *, accept_risk: str | None = None, force: bool = False
    ) -> ShippingResult:
        """Copy the shards and withdrawals to the server's inbox.

        Args:
            to: a folder or `s3://bucket/prefix`; by default `server/inbox` of this folder.
            accept_risk: why to ship although the study's privacy limits forbid it.

        Raises:
            StageOrderError: nothing is encoded.
            PrivacyLimitError: the shards tell more than the study allows.
            StorageError: the destination cannot be written.
        """
        from sltool.site.audit.gate import ship_within_limits

        study = self.study
        study.settings.check_sites([self.name])
        destination = to or str(study.folder.inbox)
        return ship_within_limits(
            study.folder,
            study.settings,
            self.name,
            destination,
            study.progress,
            force,
            accept_risk,
        )

    def withdraw(self, patient: str) -> WithdrawalResult:
        """Take a patient's samples back; `ship` sends the signed withdrawal.

        Args:
            patient: as in the column `patient` of `sites/SITE/pseudonyms.csv`.

        Raises:
            BadDataError: there is no such patient at this site.
        """
        from sltool.site.withdraw import withdraw

        return withdraw(self.study.folder.site(self.name), self.study.settings, patient)

    def feature_maps(self, split: str = "test") -> FeatureMaps:
        """As `Study.feature_maps`, of this site."""
        return self.study.feature_maps(split, site=self.name)


@dataclass(frozen=True)
class Run:
    """One training run at the server."""

    study: Study
    name: str

    def __repr__(self) -> str:
        history = self.history
        best = ""
        if "validation_loss" in history:
            best = f", lowest validation loss {history['validation_loss'].min():.4g}"
        return f"Run({self.name!r}): {len(history)} epochs{best}"

    @property
    def history(self) -> pd.DataFrame:
        """A row an epoch: losses, accuracy (classes), samples and seconds."""
        import pandas as pd

        return pd.read_csv(self.study.folder.run(self.name).history).set_index("epoch")

    def evaluate(
        self,
        metrics: Sequence[str] = (),
        *,
        by: str | None = None,
        split: str = "test",
        level: Level = "image",
        sites: Sequence[str] = (),
        device: str = "auto",
    ) -> pd.DataFrame:
        """Measure the run's best network.

        Args:
            metrics: names as in `sltool list metrics`; none: all for the labels.
            by: 'site': also each site's figures.
            split: test or validation.
            level: image, examination or patient: what is scored.
            sites: whose samples; none: all.

        Returns:
            A row for all samples (and one for each site): `samples`, then a column a metric; NaN
            where a metric is not defined.
        """
        import pandas as pd

        found = self.evaluation(metrics, split=split, level=level, sites=sites, device=device)
        names = list(metrics) or list(found.metrics)
        rows = {"all": {"samples": found.samples, **found.metrics}}
        for site, figures in found.by_site.items() if by == "site" else ():
            rows[site] = {"samples": figures["samples"], **figures["metrics"]}
        table = pd.DataFrame.from_dict(rows, orient="index")[["samples", *names]]
        return table.astype(dict.fromkeys(names, float))

    def evaluation(
        self,
        metrics: Sequence[str] = (),
        *,
        split: str = "test",
        level: Level = "image",
        sites: Sequence[str] = (),
        device: str = "auto",
    ) -> Evaluation:
        """As `evaluate`, with every metric and each site's, as an object and without pandas."""
        need("torch", "evaluating a run", "server")
        from sltool.metrics import check_metrics
        from sltool.server.evaluation.evaluate import ask, evaluate
        from sltool.server.training.run import find_run

        study, settings = self.study, self.study.settings
        check_metrics(list(metrics), settings.samples.labels.kind)
        question = ask(settings, split, level, list(sites))
        store = study._store(find_run(study.folder, self.name))
        return evaluate(study.folder, settings, store, self.name, question, pick_device(device))

    def operating_points(
        self,
        at: Sequence[str],
        *,
        prevalence: float | None = None,
        positive: str | None = None,
        level: Level = "image",
        sites: Sequence[str] = (),
        device: str = "auto",
    ) -> OperatingPoints:
        """Choose thresholds on validation samples; writes `operating-points.json`.

        Args:
            at: 'sensitivity=0.95' or 'specificity=0.9', each for a threshold.
            prevalence: the share of positives that predictive values are for; None: as in the test
                samples.
            positive: the class that is told from the others; None: the positive one of two.
            level, sites: as for `evaluate`.

        Returns:
            Each threshold with sensitivity, specificity, PPV and NPV on test samples, of all and
            of each site, with 95 % intervals; and the temperature that calibrates the network.

        Raises:
            UsageError: the labels are no classes.
            BadDataError: validation lacks positives or negatives, or a target is out of reach.
        """
        need("torch", "evaluating a run", "server")
        from sltool.server.evaluation.evaluate import ask
        from sltool.server.evaluation.operating_points import Target, choose_points
        from sltool.server.training.run import find_run

        study, settings = self.study, self.study.settings
        targets = [Target.parse(text) for text in at]
        question = ask(settings, "test", level, list(sites))
        store = study._store(find_run(study.folder, self.name))
        return choose_points(
            study.folder,
            settings,
            store,
            self.name,
            question,
            targets,
            positive,
            prevalence,
            pick_device(device),
        )

    def export(self, path: str | Path | None = None, *, device: str = "auto") -> ExportResult:
        """Write the best network as ONNX and safetensors, with a model card.

        The privacy layer, the server network, and both as one: from the source's units to
        probabilities or values in the label's unit.

        Args:
            path: a folder; by default `server/runs/NAME/export`.

        Raises:
            MissingPackageError: `onnx` or `onnxruntime` is not installed.
            StageOrderError: the run has no model yet.
        """
        need("torch", "an export", "server")
        from sltool.server.export.export import export
        from sltool.server.training.run import find_run

        study = self.study
        return export(
            study.folder,
            study.settings,
            study._store(find_run(study.folder, self.name)),
            self.name,
            None if path is None else Path(path),
            _intervals,
            pick_device(device),
            study.progress,
        )

    @property
    def predictions(self) -> pd.DataFrame:
        """Of the test samples: `pseudonym, group, site, y_true, y_pred`, or a column a class.

        Raises:
            StageOrderError: the run was not evaluated yet.
        """
        import pandas as pd

        path = self.study.folder.run(self.name).predictions(Question())
        if not path.is_file():
            raise StageOrderError(
                f"run '{self.name}' has no test predictions",
                where=path.parent,
                hint="call `Run.evaluate()` first",
            )
        return pd.read_csv(path)


@dataclass(frozen=True)
class FeatureMaps:
    """What travels of N samples.

    Attributes:
        maps: (N, C, H, W) or (N, D) float32, the first view of each sample.
        labels: (N,) float32 values or int64 class indices.
        pseudonyms: (N,) of 32 hex digits.
        sites: (N,) names.
        classes: the names of the classes; empty for regression.
    """

    maps: NDArray[np.float32]
    labels: NDArray[Any]
    pseudonyms: NDArray[np.str_]
    sites: NDArray[np.str_]
    classes: Sequence[str]

    def __len__(self) -> int:
        return len(self.maps)

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.maps.shape[1:]))
        return f"FeatureMaps({len(self)} samples of shape {shape})"


@dataclass(frozen=True)
class Training:
    """What `Study.train_runs` did: a result for each run, and what came in before training.

    Attributes:
        reports: whether this process is the one of torchrun's that reports.
    """

    results: list[TrainingResult]
    intakes: list[IntakeResult]
    reports: bool = True


def _intervals(
    names: list[str], y_true: NDArray[Any], y_pred: NDArray[Any], patients: NDArray[Any]
) -> dict[str, Estimate]:
    """Each metric with its 95 % bootstrap interval over patients."""
    from sltool.experiments.statistics import Table, intervals
    from sltool.server.evaluation.proportions import Estimate

    def defined(value: float) -> float | None:
        return value if np.isfinite(value) else None

    return {
        name: Estimate(defined(found.mean), defined(found.low), defined(found.high))
        for name, found in intervals([Table(y_true, y_pred, patients)], names).items()
    }


def _overrides(settings: Mapping[str, Any] | None) -> list[str]:
    """Settings as `prepare --set` takes them: JSON is YAML."""
    import json

    return [f"{key}={json.dumps(value)}" for key, value in (settings or {}).items()]


def _take_in(
    queue: Queue,
    options: RunOptions,
    wait_for: Sequence[str],
    ranks: Ranks,
    progress: Progress,
    on_intake: Callable[[IntakeResult], None],
) -> list[IntakeResult] | None:
    """What came in before training; None if it was stopped before enough had come.

    Raises:
        ShardRefusedError: only refused shards came.
    """
    from sltool.server.training.stop import Stop
    from sltool.server.training.watcher import wait_for as wait

    intakes: list[IntakeResult] = []

    def take() -> None:
        intakes.append(queue.take(progress))
        on_intake(intakes[-1])

    if wait_for or options.watch:
        with Stop(options.until).on_signals() as stop:
            if not wait(queue.store, list(wait_for), take, stop, ranks):
                progress.note(f"stopped before the shards were there: {stop.reason}")
                return None
    elif ranks.is_first:
        take()
    not_taken = [file for intake in intakes for file in (*intake.rejected, *intake.left)]
    if not_taken and not queue.store.segments:
        raise not_taken[0].error
    ranks.broadcast(None)  # The other ranks read the store when rank 0 has filled it.
    return intakes
