"""The queue: inbox -> accepted (and the store), held or rejected. Nothing is ever deleted.

`accepted/` is the truth and the store follows it: a shard is checked and its rows are written
behind the store's last ones, then it is moved to `accepted/`, then the store's index names it. What
a kill leaves between those steps is put right at the next start.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from sltool.errors import (
    QuarantinedError,
    ShardRefusedError,
    StorageError,
    UnknownNameError,
    UnreadableError,
    UsageError,
)
from sltool.files import move, publish, remove
from sltool.models.privacy_layer_file import feature_shape
from sltool.progress import Progress
from sltool.server.intake.duplicates import Duplicates
from sltool.server.intake.encoding_record import check_encoding, record_encoding
from sltool.server.intake.inbox import (
    REASON,
    ArrivalTimer,
    free_name,
    kind_of,
    letting_go,
    quarantine,
    shown,
    waiting,
)
from sltool.server.intake.quality_check import (
    ShardStatistics,
    class_counts,
    patient_counts,
    quality_problem,
)
from sltool.server.intake.refusal import filing
from sltool.server.intake.result import IntakeResult, Rejected
from sltool.server.intake.series import check_place
from sltool.server.intake.withdrawals import WithdrawnRows, filter_rows, record_runs
from sltool.server.store import Segment, Shape, Store
from sltool.shard.encryption import SUFFIX as AGE
from sltool.shard.encryption import decrypt
from sltool.shard.manifest import Content
from sltool.shard.payload import CHUNK_BYTES
from sltool.shard.reader import ShardReader, open_shard, read_manifest
from sltool.shard.untrusted_file import UntrustedFile
from sltool.shard.withdrawal import SUFFIX as WITHDRAWAL
from sltool.shard.withdrawal import read_withdrawal
from sltool.study.layout import StudyFolder
from sltool.study.schema import Study

# Feature maps are moved to the store in blocks of about this many bytes.
BLOCK_BYTES = 64 * CHUNK_BYTES


class Queue:
    """The server's line of arrived shards. Whoever takes from it holds `lock.only_server`.

    Raises:
        BadDataError: study.yaml does not fit what was accepted; it names the changed key.
    """

    def __init__(self, folder: StudyFolder, study: Study) -> None:
        self.folder = folder
        self.study = study
        encoding = study.encoding_digest(folder.privacy_layer)
        check_encoding(folder, study, encoding)
        shape = feature_shape(folder.privacy_layer, study)
        self.content = Content.from_study(study, encoding, shape)
        self.store = Store(
            folder.store,
            encoding,
            Shape(shape, self.content.dtype, self.content.label == "regression"),
        )
        self._withdrawn = WithdrawnRows(folder, study)
        self._duplicates = Duplicates(self.store)

    def take(self, progress: Progress) -> IntakeResult:
        """Verify every file in the inbox and move it to `accepted/`, `held/` or `rejected/`.

        What this server cannot take now, or cannot move, stays and is reported.

        Raises:
            StorageError: no space or no permission; the inbox keeps what was not taken.
        """
        intake, patience = IntakeResult(), ArrivalTimer()
        self.restore(progress, intake)
        files = waiting(self.folder)
        with progress.bar("take in shards", len(files)) as advance:
            for path in files:
                self._take_one(path, intake, patience)
                advance(1)
        self._purge(progress, intake)
        return intake

    def take_file(self, path: Path, progress: Progress) -> IntakeResult:
        """As `take`, for one file; one that lies elsewhere is copied to the inbox first.

        Raises:
            SltoolError: the file was refused or held; this is the reason.
        """
        intake = IntakeResult()
        self.restore(progress, intake)
        self._take_one(self._into_inbox(path), intake, ArrivalTimer(0))
        self._purge(progress, intake)
        for one in (*intake.not_taken, *intake.vanished):
            raise one.error
        return intake

    def approve(self, name: str, progress: Progress) -> None:
        """Accept a shard that is held.

        Raises:
            UnknownNameError: no such file is held.
            SltoolError: it is refused after all, and moved to `rejected/`.
        """
        held = [path.name for path in self.folder.held.glob("*") if kind_of(path)]
        if name not in held:
            raise UnknownNameError.of("held shard", name, held, hint="see `sltool status`")
        intake = IntakeResult()
        self.restore(progress, intake)
        path = self.folder.held / name
        self._take_one(path, intake, ArrivalTimer(0), approved=True)
        if not os.path.lexists(path):
            remove(path.with_name(name + REASON))
        for one in (*intake.not_taken, *intake.vanished):
            raise one.error
        remove(path.with_name(name + REASON))

    def check(self, path: Path) -> str:
        """Verify a file, all its contents too, and touch nothing; the name it would get.

        Raises:
            SltoolError: it would be refused.
        """
        with self._plain(path) as plain:
            if kind_of(path) == WITHDRAWAL:
                return read_withdrawal(plain, self.study).name
            with open_shard(plain, self.study, self.content) as reader:
                reader.rows()
                for _ in reader.features(self._rows_at_once()):
                    pass
                return reader.manifest.place.name

    def restore(self, progress: Progress, intake: IntakeResult) -> None:
        """Make the store what `accepted/` says, whatever a crash or a withdrawal left.

        Raises:
            NotTrustedError: study.yaml no longer lists a site whose shards were accepted.
        """
        record_encoding(self.folder, self.study, self.store.encoding)
        self._withdrawn = WithdrawnRows(self.folder, self.study)
        for stale in self.folder.decrypted.glob("*"):
            remove(stale)
        accepted = {path: self._digest(path) for path in sorted(self.folder.accepted.glob("*.h5"))}
        gone = any(one.digest not in accepted.values() for one in self.store.segments)
        if gone or self._withdrawn.any_in(self.store):
            progress.note("making the store again from server/accepted")
            self.store.clear()
        for path, digest in accepted.items():
            if digest not in self.store:
                progress.detail(f"into the store: {path.name}")
                self._restore_one(path, intake)

    def missing(self) -> bool:
        """Whether the store holds nothing of what was accepted, as after it was deleted."""
        return not self.store.segments and any(self.folder.accepted.glob("*.h5"))

    def _purge(self, progress: Progress, intake: IntakeResult) -> None:
        """Take the rows of the withdrawals that have just arrived out of the store."""
        if intake.withdrawn:
            self.restore(progress, intake)

    def _restore_one(self, path: Path, intake: IntakeResult) -> None:
        try:
            with open_shard(path, self.study, self.content, arriving=False) as reader:
                segment, _ = self._stage(reader)
            self.store.commit(segment)
        except ShardRefusedError as error:
            # Damaged since. An edit of study.yaml raises other errors, and moves nothing.
            quarantine(path, self.folder.rejected, error)
            intake.rejected.append(Rejected(path.name, error))

    def _digest(self, path: Path) -> str:
        try:
            return read_manifest(path)[0].digest
        except ShardRefusedError:
            # `_restore_one` finds out what is wrong with it, and rejects it.
            return ""
        except UnreadableError as error:
            # Not a fault of the file that arrives.
            raise StorageError(error.what, where=path, expected=error.expected) from error

    def _take_one(
        self, path: Path, intake: IntakeResult, patience: ArrivalTimer, approved: bool = False
    ) -> None:
        with filing(path, self.folder, intake, patience):
            self._take_in(path, intake, approved)

    def _take_in(self, path: Path, intake: IntakeResult, approved: bool) -> None:
        with self._plain(path) as plain:
            if kind_of(path) == WITHDRAWAL:
                self._withdraw(plain, intake)
            elif new := self._admit(plain, approved):
                intake.accepted.append(new)
            else:
                intake.already.append(shown(path.name))
            # What is in `accepted/` now need not lie here as well.
            with letting_go(path):
                remove(path)

    @contextmanager
    def _plain(self, path: Path) -> Iterator[Path]:
        """The file itself, or for an encrypted one what it holds, for as long as it is needed."""
        if path.suffix != AGE:
            yield path
            return
        plain = self.folder.decrypted / f"arriving{kind_of(path)}"
        decrypt(path, plain, self.folder.identity)
        try:
            yield plain
        finally:
            remove(plain)

    def _admit(self, path: Path, approved: bool) -> str:
        """Take a shard in; its name, or '' if it had been accepted before."""
        with open_shard(path, self.study, self.content) as reader:
            manifest = reader.manifest
            target = self.folder.accepted / manifest.place.name
            if target.exists() and self._digest(target) == manifest.digest:
                return ""
            check_place(reader, target, self.store)
            segment, statistics = self._stage(reader)
            problem = "" if approved else quality_problem(statistics, segment, self.store.segments)
            if problem:
                raise QuarantinedError(f"held for approval: {problem}", where=path)
        with letting_go(path):
            move(path, target)
        self.store.commit(segment)
        return target.name

    def _stage(self, reader: ShardReader) -> tuple[Segment, ShardStatistics]:
        """Check every row and write those that were not withdrawn behind the store's last ones."""
        manifest, rows, statistics = reader.manifest, reader.rows(), ShardStatistics()
        keep = self._withdrawn.keeps(manifest.place.site, rows.pseudonyms)
        pseudonyms = rows.pseudonyms[keep]
        self._duplicates.check(pseudonyms, reader.path)
        segment = Segment(
            digest=manifest.digest,
            previous=manifest.previous,
            site=manifest.place.site,
            split=manifest.place.split,
            sequence=manifest.place.sequence,
            start=0,
            samples=len(pseudonyms),
            views=manifest.content.views,
            classes=class_counts(rows.labels[keep], self.content.classes),
            patients=patient_counts(rows.labels[keep], rows.groups[keep], self.content.classes),
        )
        features = statistics.watch(reader.features(self._rows_at_once()))
        if not keep.all():
            features = filter_rows(features, np.repeat(keep, manifest.content.views))
        segment = self.store.stage(
            segment, features, rows.labels[keep], pseudonyms, rows.groups[keep]
        )
        return replace(segment, rms=statistics.rms), statistics

    def _rows_at_once(self) -> int:
        return max(1, BLOCK_BYTES // self.store.shape.row_bytes)

    def _withdraw(self, path: Path, intake: IntakeResult) -> None:
        withdrawal = read_withdrawal(path, self.study)
        target = self.folder.accepted / withdrawal.name
        if target.exists():
            intake.already.append(target.name)
            return
        intake.withdrawn[target.name] = record_runs(self.folder, self.store, withdrawal)
        with letting_go(path):
            move(path, target)
        self._withdrawn = WithdrawnRows(self.folder, self.study)

    def _into_inbox(self, path: Path) -> Path:
        if not kind_of(path):
            raise UsageError(
                f"'{shown(path.name)}' is no name of a shard or a withdrawal",
                expected="a name that ends in .h5 or .withdrawal, or in .age after that",
            )
        if path.parent.resolve() == self.folder.inbox.resolve():
            return path
        target = free_name(self.folder.inbox, path.name)
        with UntrustedFile(path) as file, publish(target) as part, part.open("wb") as writer:
            file.copy_to(writer)
        return target
