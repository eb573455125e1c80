"""A study's folder and its stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sltool.api.opened_study import OpenedStudy
from sltool.api.results import State, Training
from sltool.api.run import Run
from sltool.api.site import Site
from sltool.errors import StageOrderError, UnknownNameError
from sltool.machine import available_cpus, importing, need, pick_device
from sltool.progress import Progress, Silent
from sltool.study.layout import Level, Question
from sltool.study.study_file import load_study

if TYPE_CHECKING:
    import pandas as pd

    from sltool.coordinator.kit import AddResult, KitResult
    from sltool.coordinator.unpack import Unpacked
    from sltool.server.evaluation.compare import RunFigures
    from sltool.server.evaluation.predict import SiteAnswer
    from sltool.server.intake.fetch import Fetched
    from sltool.server.intake.queue import Queue
    from sltool.server.intake.result import IntakeResult
    from sltool.server.intake.status import Status
    from sltool.server.training.distributed import Ranks
    from sltool.server.training.run import TrainingResult
    from sltool.server.training.run_settings import RunOptions
    from sltool.shard.public_key_file import PublicKeyFile
    from sltool.site.encode import EncodingResult
    from sltool.site.fit_stage import FittedLayer
    from sltool.site.inspection import Inspection
    from sltool.site.join import Joined
    from sltool.site.partition_stage import PartitionResult
    from sltool.site.prepare import PreparationResult
    from sltool.site.resolve import Resolved
    from sltool.site.ship import ShippingResult


class Study(OpenedStudy):
    """A study's folder: what all have agreed on, and what is there of sites and server.

    Attributes:
        path: the folder.

    Args:
        path: a folder with a `study.yaml`.
        progress: who is told what goes on; by default bars and notes, in notebooks too.
    """

    def __init__(self, path: str | Path, *, progress: Progress | None = None) -> None:
        super().__init__(path, progress=progress)
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
        recipe: str | None = None,
        samples: int | None = None,
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
            recipe: the dataset's settings for a new study: best (the default), paper or private.
            samples: how many training samples the sites expect together, which the recipe fits
                training.epochs and training.batch_size to; None: `prepare` counts them.
            settings: keys of study.yaml: `{"model.cut": 2, "training.epochs": 20}`.
            seed: of the privacy layer, which is then public; None: from the system's entropy.

        Raises:
            UnknownNameError: there is no such dataset, recipe or model.
            UsageError, StudyFileError: a setting is wrong.
            StudyMismatchError: the folder holds another study.
        """
        from sltool.coordinator.create import make_study

        study = cls(path, progress=progress)
        study._source = None if source is None else Path(source)
        _, notes = make_study(
            study.folder,
            dataset,
            study._source,
            _overrides(settings),
            seed,
            False,
            study.progress,
            recipe=recipe,
            samples=samples,
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

    def kit(self, to: str | Path | None = None) -> KitResult:
        """Sign study.yaml, the privacy layer and a leaflet for the sites, as one file.

        The coordinator's key is made on first use, in `coordinator/key`.

        Args:
            to: the file; by default `study-kit.zip` in this folder.

        Raises:
            StudyMismatchError: the privacy layer does not fit the model.
        """
        from sltool.coordinator.kit import make_kit

        return make_kit(self.folder, None if to is None else Path(to))

    def unpack(
        self, kit: str | Path, *, fingerprint: str | None = None, force: bool = False
    ) -> Unpacked:
        """Check a kit and write its study into this folder, at the server.

        Args:
            fingerprint: of the coordinator's key, as the coordinator says it; None: the key of the
                first kit is trusted from then on.
            force: replace a study.yaml that was changed here.

        Raises:
            NotTrustedError: the kit was changed, or another key signed it.
            ShardRefusedError: it is not a kit.
            StudyMismatchError: this folder has another study.
        """
        from sltool.coordinator.unpack import unpack_kit
        from sltool.shard.kit import read_kit

        return unpack_kit(self.folder, read_kit(Path(kit)), fingerprint, force)

    def join(
        self, kit: str | Path, site: str, *, fingerprint: str | None = None, force: bool = False
    ) -> Joined:
        """As `unpack`, at a site: also makes the site's keys and writes `SITE.pub`.

        Raises:
            StudyMismatchError: also, the study lists another key for the site.
        """
        from sltool.shard.kit import read_kit
        from sltool.site.join import join

        self.folder.site(site)  # A bad name is refused before the kit is read.
        return join(self.folder, read_kit(Path(kit)), site, fingerprint, force)

    def enrol(self, site: str, *, encrypt: bool = False) -> PublicKeyFile:
        """Make a site's keys, if they are missing, and write `SITE.pub` for the coordinator.

        Args:
            encrypt: also a key that the server encrypts predictions for.

        Raises:
            StudyMismatchError: the study lists another key for the site.
        """
        from sltool.site.enrol import enrol_here

        return enrol_here(self.folder, self.settings, site, encrypt)

    def add_site(self, file: str | Path) -> AddResult:
        """Enter the site of a `.pub` file in study.yaml, at the coordinator and the server.

        Raises:
            NotTrustedError, ShardRefusedError: the file is not as a site wrote it.
            StudyMismatchError: the site joined another version of the study.
        """
        from sltool.coordinator.kit import add_site

        return add_site(self.folder, Path(file))

    def prepare(
        self,
        source: str | Path | None = None,
        *,
        workers: int = 0,
        seed: int | None = None,
        columns: Mapping[str, str] | None = None,
        force: bool = False,
    ) -> PreparationResult:
        """Read the dataset's source into `prepared.h5`, which is private.

        Args:
            source: its file or folder; by default what `create` was given.
            workers: processes that decode images; 0: one for each CPU.
            seed: of the privacy layer, if it has to be drawn anew.
            columns: the study's name of a column -> what this source calls it; kept at the site.

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
            columns=[f"{name}={header}" for name, header in (columns or {}).items()],
        )

    def partition(
        self,
        ratios: Sequence[float] | str | None = None,
        *,
        sites: int | None = None,
        by: str | None = None,
        skew: float | None = None,
        quantity_skew: float | None = None,
        site: str | None = None,
        seed: int | None = None,
        force: bool = False,
    ) -> PartitionResult:
        """Split the samples into training, validation and test, at simulated sites or a real one.

        Args:
            ratios: the simulated sites' shares of the samples; by default 7:2:1.
            sites: so many simulated sites of equal shares, instead of `ratios`.
            by: a site for each value of this column, which the source names (hospital, scanner,
                year). All samples of a patient go where most of them are.
            skew: alpha of a Dirichlet distribution from which each simulated site's shares of the
                classes are drawn (of a quantity, its deciles): 0.1 for sites that differ strongly.
            quantity_skew: the same for the sizes of `sites`.
            site: at a real hospital: all samples are this site's.
            seed: of the simulation (default 0); a real site's split follows from no seed.

        Raises:
            StageOrderError: nothing is prepared.
            UsageError: a site would be left empty, two arguments exclude each other, the source
                names no such column, or other sites are here.
        """
        from sltool.site.division import Division, ratios_text
        from sltool.site.partition_stage import make_sites

        division = Division(ratios_text(ratios), sites, by, skew, quantity_skew, site)
        return make_sites(self.folder, division, seed, force, self.progress)

    def fit_privacy_layer(
        self,
        *,
        site: str | None = None,
        source: str | Path | None = None,
        auxiliary: str | Path | None = None,
        bits: int | None = None,
        channels: int | None = None,
        size: int | None = None,
        widths: Sequence[int] | None = None,
        halve: str | None = None,
        noise: float | None = None,
        epochs: int = 100,
        weight: float = 0.0,
        distance_weight: float = 0.0,
        device: str = "auto",
        seed: int | None = None,
        force: bool = False,
    ) -> FittedLayer:
        """Fit the privacy layer to a short code, before any site encodes.

        Writes `privacy-layer.safetensors` and the settings of the code in study.yaml, for all
        sites and the server.

        Args:
            site: fit on its training samples, about which the layer may then tell something.
            source: fit on public data, in the layout of the study's dataset.
            auxiliary: fit on a folder of public images without labels.
            bits: of each value: 8, 4, 2 or 1; 0: not quantised. None: as in study.yaml, if it has a
                code; else 8.
            channels, size, widths: the code's form; None: as in study.yaml, if it has a code; else
                that of the recipe `private`: 4 values behind convolutions of 16, 32, 64 and 128
                channels; for tables 2 behind two dense layers of 64.
            halve: how the convolutions halve an image: 'stride' or 'pool'; None: as in study.yaml,
                if it has a code; else 'pool'.
            noise: its standard deviation; None: as in study.yaml; if that has neither a code nor
                noise, 0.2.
            weight: of the success of a decoder that is fitted at the same time, relative to the
                task's loss; 0: no such decoder.
            distance_weight: of the distance correlation of samples and codes.
            seed: None: from the system's entropy.

        Raises:
            UsageError: not exactly one of `site`, `source` and `auxiliary` is given.
            StageOrderError: there are shards of the present layer, or no private data.
            BadDataError: there are too few samples.
            StudyFileError: a setting is wrong, or the model cannot follow such a code.
            DivergedError: the loss is not finite.
        """
        need("torch", "fitting a privacy layer", "server")
        from sltool.site.fit_layer import FitOptions
        from sltool.site.fit_stage import CodeOptions, fit_privacy_layer

        return fit_privacy_layer(
            self.folder,
            site,
            None if source is None else Path(source),
            None if auxiliary is None else Path(auxiliary),
            CodeOptions(
                channels, size, None if widths is None else tuple(widths), bits, noise, halve
            ),
            FitOptions(epochs, weight, distance_weight),
            seed,
            pick_device(device),
            force,
            self.progress,
        )

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

    def fetch(self, source: str | Path) -> Fetched:
        """Copy to the inbox what sites shipped elsewhere, and was not fetched before.

        Nothing is deleted there. It may run while a server trains; `take_in` comes next.

        Args:
            source: a folder, `s3://bucket/prefix` or `sftp://host/path`.

        Returns:
            The names of the files that were copied, and how many were fetched before.

        Raises:
            StorageError: the source cannot be read, or the inbox not written.
            NotTrustedError: an SFTP server whose key is not known.
        """
        from sltool.server.intake.fetch import fetch

        return fetch(self.folder, str(source), self.progress)

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
        from sltool.server.training.site_control import SiteControl

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
    ) -> Training:
        """As `train`, for several runs, with the options of `sltool server-train`.

        Runs in every process of torchrun; only the first one reports progress.

        Args:
            wait_for: begin when these sites have shipped.
            on_intake: is called with what each look into the inbox brought; by default it is
                reported as notes.
        """
        need("torch", "training", "server")
        from sltool.server.intake.lock import only_server
        from sltool.server.training.distributed import is_distributed, join_ranks, local_device
        from sltool.server.training.run import train

        settings = self.settings
        for run in options:
            settings.check_sites(run.control.weights)
            settings.check_taking_part([*run.sites, *wait_for])
            self.folder.run(run.run)  # A bad name is refused before anything is taken in.
        needs_torch = is_distributed() or device != "auto"
        where = local_device(pick_device(device)) if needs_torch else None
        with (
            join_ranks(where) as ranks,
            only_server(self.folder) if ranks.is_first else nullcontext(),
        ):
            progress = self.progress if ranks.is_first else Silent()
            for site in settings.left_sites():
                progress.note(f"site {site} left the study: its shards are not used")
            queue = self._queue()
            report = on_intake or self._report
            with importing("torch"):
                intakes, stopped = _take_in(queue, options[0], wait_for, ranks, progress, report)
            results: list[TrainingResult] = []
            for run in options:
                if stopped:
                    break
                where = where or local_device(pick_device(device))
                done = train(self.folder, settings, queue.store, run, where, progress, ranks)
                results.append(done)
                stopped = done.stopped if ranks.any(done.interrupted) else ""
        return Training(results, intakes, ranks.is_first, stopped)

    def predict(
        self,
        run: str = "default",
        *,
        sites: Sequence[str] = (),
        device: str = "auto",
        force: bool = False,
    ) -> list[SiteAnswer]:
        """Take in what has arrived, and answer the sites' new cases with a run's best network.

        Writes a file signed by the server for each site, in `server/answers`.

        Args:
            sites: whose cases; none: all.
            force: also answer cases that the run's model has answered.

        Raises:
            UnknownNameError: there is no such run or site.
            StudyMismatchError: the run was trained with another encoding.
        """
        need("torch", "predicting", "server")
        from sltool.server.evaluation.predict import answer_cases
        from sltool.server.intake.inbox import waiting
        from sltool.server.store import is_behind
        from sltool.server.training.run import find_run

        found = find_run(self.folder, run)
        store = self.store(found, note_behind=False)
        if waiting(self.folder) or is_behind(store, self.folder):
            self.take_in()
        return answer_cases(
            self.folder,
            self.settings,
            self.store(found),
            run,
            list(sites),
            pick_device(device),
            force,
        )

    def predict_here(
        self, run: str, site: str, source: str | Path, *, device: str = "auto"
    ) -> Resolved:
        """Both halves in one place: encode a site's cases, predict them, resolve the answer.

        The site's data, its key and the server are in this folder.

        Raises:
            StageOrderError: every case was answered before by this run.
        """
        from sltool.server.training.run import find_run

        find_run(self.folder, run)
        here = Site(self, site)
        here.encode_cases(source, device=device)
        here.ship()
        answers = self.predict(run, sites=[site], device=device)
        if not answers:
            raise StageOrderError(
                f"run '{run}' has answered all these cases before",
                where=self.folder.site(site).cases,
                hint="see the tables there; `sltool predict --force` answers every case again",
            )
        return here.resolve(answers[0].file, server_key=self._server_key())

    def _server_key(self) -> str:
        from sltool.shard.keys import SigningKey

        return SigningKey.load(self.folder.server_key).public

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

    def inspect(self, shard: str | Path, *, identity: str | Path | None = None) -> Inspection:
        """Look into a shard: who signed it, what is in it, and what the audit found.

        Originals are beside the feature maps where this folder has the site's private data.

        Args:
            identity: the server's age identity, for an encrypted file; by default
                `server/identity`.

        Raises:
            ShardRefusedError: the file does not begin like a shard. What is wrong with one that
                does is in `shard.checks` of the result.
            StageOrderError: it is encrypted, and the identity is not here.
        """
        from sltool.site.inspection import inspect

        return inspect(self.folder, Path(shard), None if identity is None else Path(identity))

    def status(self) -> Status:
        """What has arrived at the server, what is missing, and what waits for a person."""
        from sltool.server.intake.status import read_status

        return read_status(self.folder)

    def state(self) -> State:
        """What is done in this folder, by whichever party it is of, and what comes next.

        Raises:
            StudyFileError: study.yaml is not valid.
            BadDataError: a record is damaged.
        """
        from sltool.coordinator.status import coordinator_status, parties
        from sltool.server.intake.status import read_status
        from sltool.shard.keys import SigningKey
        from sltool.site.status import site_status
        from sltool.study.schema import digest_of

        folder = self.folder
        server = read_status(folder)
        if not folder.study_file.is_file():
            return State(None, "", "", [], [], None, server)
        study, layer = self.settings, folder.privacy_layer
        made = layer.is_file()
        coordinator = None
        if folder.coordinator_key.is_file():
            public = SigningKey.load(folder.coordinator_key).public
            coordinator = coordinator_status(folder, study, public)
        return State(
            study=study.id,
            agreement=digest_of(study.agreement(layer)) if made else "",
            encoding=study.encoding_digest(layer) if made else "",
            parties=parties(folder, study),
            sites=[site_status(folder, study, name) for name in folder.site_folders()],
            coordinator=coordinator,
            server=server,
        )


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
) -> tuple[list[IntakeResult], str]:
    """What came in before training, and why the wait for it was stopped ('': it was not).

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
                return intakes, stop.reason or "another process was asked to stop"
    elif ranks.is_first:
        take()
    not_taken = [file for intake in intakes for file in (*intake.rejected, *intake.left)]
    if not_taken and not queue.store.segments:
        raise not_taken[0].error
    ranks.broadcast(None)  # The other ranks read the store when rank 0 has filled it.
    return intakes, ""
