"""What a study's sites and runs need of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sltool.api.results import FeatureMaps
from sltool.errors import StageOrderError
from sltool.machine import need
from sltool.progress import Progress, RichProgress
from sltool.study.layout import RunFolder, StudyFolder
from sltool.study.study_file import load_study

if TYPE_CHECKING:
    from sltool.server.intake.queue import Queue
    from sltool.server.intake.result import IntakeResult
    from sltool.server.store import Store
    from sltool.study.schema import Study as Settings


class OpenedStudy:
    """A study's folder, its settings, and the server's store in it.

    Attributes:
        path: the folder.
        progress: who is told what goes on.
    """

    def __init__(self, path: str | Path, *, progress: Progress | None = None) -> None:
        self.path = Path(path)
        self.progress: Progress = RichProgress() if progress is None else progress

    @property
    def folder(self) -> StudyFolder:
        """Where every file of the study is."""
        return StudyFolder(self.path)

    @property
    def settings(self) -> Settings:
        """`study.yaml` as it is now; see `sltool.study.schema.Study`."""
        return load_study(self.folder)

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
        store = self.store()
        samples = store.samples(split, [site] if site else None)
        if not len(samples):
            raise StageOrderError(
                f"no {split} sample has arrived{f' of site {site}' if site else ''}",
                where=store.folder,
                hint="ship the sites' shards, then take them in with `Study.take_in()`",
            )
        first_views = samples.feature_maps(samples.rows)
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

    def store(self, run: RunFolder | None = None, *, note_behind: bool = True) -> Store:
        """The server's store, made again if it was deleted.

        Args:
            run: what is about to be evaluated: a run of another encoding is an error before that.
            note_behind: note accepted shards that are not in it. They are not added here, since
                a server that trains may be adding them.

        Raises:
            BadDataError, StudyMismatchError: the store or the run is of another encoding.
        """
        from sltool.server.evaluation.evaluate import check_run
        from sltool.server.intake.encoding_record import check_encoding
        from sltool.server.store import is_behind, is_lost, open_store

        settings = self.settings
        store = open_store(self.folder, settings)
        check_encoding(self.folder, settings, store.encoding)
        if run is not None:
            check_run(run, settings, store, settings.meaning(self.folder.privacy_layer))
        if is_lost(store, self.folder):
            self.restore_store()
            store = open_store(self.folder, settings)
        elif note_behind and is_behind(store, self.folder):
            self.progress.note(
                "shards were accepted that are not in the store yet: `sltool queue take` adds them"
            )
        return store

    def _report(self, intake: IntakeResult) -> None:
        from sltool.server.intake.notes import intake_notes

        for note in intake_notes(self.folder, intake):
            self.progress.note(note)

    def _queue(self) -> Queue:
        from sltool.server.intake.queue import Queue

        return Queue(self.folder, self.settings)
