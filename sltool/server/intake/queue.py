"""The queue: from the inbox to `accepted/` and the store, to `held/` (quarantine) or `rejected/`.

No file that arrived is deleted. `accepted/` is authoritative, and the store is derived from it: a
shard is checked and its rows are appended to the store, then the shard is moved to `accepted/`,
then the store's index lists it. If the process is killed in between, the next start repairs this.
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
    immovable_errors,
    kind_of,
    move_with_reason,
    printable,
    waiting,
)
from sltool.server.intake.quality_check import (
    ShardStatistics,
    class_counts,
    patient_counts,
    quality_problem,
)
from sltool.server.intake.refusal import outcome_recorded
from sltool.server.intake.result import IntakeResult, Rejected
from sltool.server.intake.series import check_place
from sltool.server.intake.withdrawals import WithdrawnRows, filter_rows, record_runs
from sltool.server.store import Segment, open_store
from sltool.shard.encryption import SUFFIX as AGE
from sltool.shard.encryption import decrypt
from sltool.shard.manifest import PREDICTION, Content
from sltool.shard.payload import CHUNK_BYTES
from sltool.shard.reader import ShardReader, open_shard, read_manifest
from sltool.shard.untrusted_file import UntrustedFile
from sltool.shard.withdrawal import SUFFIX as WITHDRAWAL
from sltool.shard.withdrawal import read_withdrawal
from sltool.study.layout import StudyFolder
from sltool.study.schema import Study

# Feature maps are copied to the store in blocks of about this many bytes.
BLOCK_BYTES = 64 * CHUNK_BYTES


class Queue:
    """The server's queue of arrived shards; callers that change it hold `lock.only_server`.

    Raises:
        BadDataError: study.yaml does not fit the accepted shards.
    """

    def __init__(self, folder: StudyFolder, study: Study) -> None:
        self.folder = folder
        self.study = study
        encoding = study.encoding_digest(folder.privacy_layer)
        check_encoding(folder, study, encoding)
        shape = feature_shape(folder.privacy_layer, study)
        self.content = Content.from_study(study, encoding, shape)
        self.store = open_store(folder, study)
        self._withdrawn = WithdrawnRows(folder, study)
        self._duplicates = Duplicates(self.store)

    def take(self, progress: Progress) -> IntakeResult:
        """Verify every file in the inbox and move it to `accepted/`, `held/` or `rejected/`.

        Files that this server cannot process now, or cannot move, stay and are reported.

        Raises:
            StorageError: no space or no permission; the remaining files stay in the inbox.
        """
        intake, timer = IntakeResult(), ArrivalTimer()
        self.restore(progress, intake)
        files = waiting(self.folder)
        with progress.bar("take in shards", len(files)) as advance:
            for path in files:
                self._take(path, intake, timer)
                advance(1)
        self._purge(progress, intake)
        return intake

    def take_file(self, path: Path, progress: Progress) -> IntakeResult:
        """Like `take`, for a single file; a file from another folder is copied to the inbox first.

        Raises:
            SltoolError: the file was refused or quarantined, for this reason.
        """
        intake = IntakeResult()
        self.restore(progress, intake)
        self._take(self._into_inbox(path), intake, ArrivalTimer(0))
        self._purge(progress, intake)
        for file in (*intake.not_accepted, *intake.vanished):
            raise file.error
        return intake

    def approve(self, name: str, progress: Progress) -> None:
        """Accept a shard from quarantine.

        Raises:
            UnknownNameError: there is no such file in quarantine.
            SltoolError: the shard was refused after all, and moved to `rejected/`.
        """
        names = [path.name for path in self.folder.quarantine.glob("*") if kind_of(path)]
        if name not in names:
            raise UnknownNameError.of("quarantined shard", name, names, hint="see `sltool status`")
        intake = IntakeResult()
        self.restore(progress, intake)
        path = self.folder.quarantine / name
        self._take(path, intake, ArrivalTimer(0), approved=True)
        if not os.path.lexists(path):
            remove(path.with_name(name + REASON))
        for file in (*intake.not_accepted, *intake.vanished):
            raise file.error
        remove(path.with_name(name + REASON))

    def check(self, path: Path) -> str:
        """Verify a file with all its contents, without changes; its name in `accepted/`.

        Raises:
            SltoolError: the file would be refused.
        """
        with self._plain(path) as plain:
            if kind_of(path) == WITHDRAWAL:
                return read_withdrawal(plain, self.study).name
            with open_shard(plain, self.study, self.content) as reader:
                reader.rows()
                for _ in reader.features(self._block_rows()):
                    pass
                return reader.manifest.place.name

    def restore(self, progress: Progress, intake: IntakeResult) -> None:
        """Bring the store in line with `accepted/`, after a crash or a withdrawal.

        Raises:
            NotTrustedError: study.yaml no longer lists a site whose shards were accepted.
        """
        record_encoding(self.folder, self.study, self.store.encoding)
        self._withdrawn = WithdrawnRows(self.folder, self.study)
        for stale in self.folder.decrypted.glob("*"):
            remove(stale)
        accepted = {path: self._digest(path) for path in sorted(self.folder.accepted.glob("*.h5"))}
        removed = any(segment.digest not in accepted.values() for segment in self.store.segments)
        if removed or self._withdrawn.any_in(self.store):
            progress.note("rebuilding the store from server/accepted")
            self.store.clear()
        for path, digest in accepted.items():
            if digest not in self.store:
                progress.detail(f"into the store: {path.name}")
                self._restore_shard(path, intake)

    def _purge(self, progress: Progress, intake: IntakeResult) -> None:
        """Remove the rows of withdrawals that have just arrived from the store."""
        if intake.withdrawn:
            self.restore(progress, intake)

    def _restore_shard(self, path: Path, intake: IntakeResult) -> None:
        try:
            with open_shard(path, self.study, self.content, arriving=False) as reader:
                segment, _ = self._stage(reader)
            self.store.commit(segment)
        except ShardRefusedError as error:
            # Damaged after it was accepted. A change of study.yaml raises other errors.
            move_with_reason(path, self.folder.rejected, error)
            intake.rejected.append(Rejected(path.name, error))

    def _digest(self, path: Path) -> str:
        try:
            return read_manifest(path)[0].digest
        except ShardRefusedError:
            # `_restore_shard` finds the fault and rejects the shard.
            return ""
        except UnreadableError as error:
            # The arriving file is not at fault.
            raise StorageError(error.what, where=path, expected=error.expected) from error

    def _take(
        self, path: Path, intake: IntakeResult, timer: ArrivalTimer, approved: bool = False
    ) -> None:
        with outcome_recorded(path, self.folder, intake, timer):
            self._take_in(path, intake, approved)

    def _take_in(self, path: Path, intake: IntakeResult, approved: bool) -> None:
        with self._plain(path) as plain:
            if kind_of(path) == WITHDRAWAL:
                self._withdraw(plain, intake)
            elif new := self._admit(plain, approved):
                intake.accepted.append(new)
            else:
                intake.already.append(printable(path.name))
            # The accepted file is in `accepted/`; this is a leftover copy.
            with immovable_errors(path):
                remove(path)

    @contextmanager
    def _plain(self, path: Path) -> Iterator[Path]:
        """The file itself, or its decrypted contents while the context lasts."""
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
        """Accept a shard; its name in `accepted/`, or '' if it had been accepted before."""
        with open_shard(path, self.study, self.content) as reader:
            manifest = reader.manifest
            target = self.folder.accepted / manifest.place.name
            if target.exists() and self._digest(target) == manifest.digest:
                return ""
            check_place(reader, target, self.store)
            segment, statistics = self._stage(reader)
            problem = "" if approved else quality_problem(statistics, segment, self.store.segments)
            if problem:
                raise QuarantinedError(f"quarantined for approval: {problem}", where=path)
        with immovable_errors(path):
            move(path, target)
        self.store.commit(segment)
        return target.name

    def _stage(self, reader: ShardReader) -> tuple[Segment, ShardStatistics]:
        """Check every row, and append those that were not withdrawn to the store."""
        manifest, rows = reader.manifest, reader.rows()
        statistics = ShardStatistics(manifest.content)
        labelled = manifest.place.split != PREDICTION
        classes = self.content.classes if labelled else 0
        keep = self._withdrawn.keep_mask(manifest.place.site, rows.pseudonyms)
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
            classes=class_counts(rows.labels[keep], classes),
            patients=patient_counts(rows.labels[keep], rows.groups[keep], classes),
        )
        features = statistics.watch(reader.features(self._block_rows()))
        if not keep.all():
            features = filter_rows(features, np.repeat(keep, manifest.content.views))
        segment = self.store.stage(
            segment, features, rows.labels[keep], pseudonyms, rows.groups[keep]
        )
        return replace(segment, rms=statistics.rms), statistics

    def _block_rows(self) -> int:
        return max(1, BLOCK_BYTES // self.store.shape.row_bytes)

    def _withdraw(self, path: Path, intake: IntakeResult) -> None:
        withdrawal = read_withdrawal(path, self.study)
        target = self.folder.accepted / withdrawal.name
        if target.exists():
            intake.already.append(target.name)
            return
        intake.withdrawn[target.name] = record_runs(self.folder, self.store, withdrawal)
        with immovable_errors(path):
            move(path, target)
        self._withdrawn = WithdrawnRows(self.folder, self.study)

    def _into_inbox(self, path: Path) -> Path:
        if not kind_of(path):
            raise UsageError(
                f"'{printable(path.name)}' is not the name of a shard or a withdrawal",
                expected="a name that ends in .h5, .withdrawal, .h5.age or .withdrawal.age",
            )
        if path.parent.resolve() == self.folder.inbox.resolve():
            return path
        target = free_name(self.folder.inbox, path.name)
        with UntrustedFile(path) as file, publish(target) as part, part.open("wb") as writer:
            file.copy_to(writer)
        return target
