"""The queue: inbox -> accepted (and the store), held or rejected. Nothing is ever deleted.

`accepted/` is the truth and the store follows it: a shard is checked and its rows are written
behind the store's last ones, then it is moved to `accepted/`, then the store's index names it. What
a kill leaves between those steps is put right at the next start.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sltool.errors import (
    HeldError,
    ShardRefusedError,
    SltoolError,
    StageOrderError,
    StorageError,
    UnknownNameError,
    UsageError,
)
from sltool.files import move, publish, remove
from sltool.layerfile import feature_shape
from sltool.layout import StudyFolder
from sltool.progress import Progress
from sltool.server.duplicates import Duplicates
from sltool.server.inbox import REASON, Patience, kind_of, put_aside, shown, waiting
from sltool.server.intake import Intake, Rejected
from sltool.server.store import Segment, Shape, Store
from sltool.server.suspicion import Impression, suspicion
from sltool.server.withdrawn import Withdrawn, kept, record_runs
from sltool.shard.manifest import Content
from sltool.shard.opened import OpenedFile
from sltool.shard.payload import CHUNK_BYTES
from sltool.shard.reader import ShardReader, open_shard, read_manifest
from sltool.shard.road import SUFFIX as AGE
from sltool.shard.road import decrypt
from sltool.shard.withdrawal import SUFFIX as WITHDRAWAL
from sltool.shard.withdrawal import read_withdrawal
from sltool.study import Study

# Feature maps are moved to the store in blocks of about this many bytes.
BLOCK_BYTES = 64 * CHUNK_BYTES


class Queue:
    """The server's line of arrived shards. Whoever takes from it holds `lock.only_server`."""

    def __init__(self, folder: StudyFolder, study: Study) -> None:
        self.folder = folder
        self.study = study
        encoding = study.encoding_digest(folder.privacy_layer)
        shape = feature_shape(folder.privacy_layer, study)
        self.content = Content.of(study, encoding, shape)
        self.store = Store(
            folder.store,
            encoding,
            Shape(shape, self.content.dtype, self.content.label == "regression"),
        )
        self._withdrawn = Withdrawn(folder, study)
        self._duplicates = Duplicates(self.store)

    def take(self, progress: Progress) -> Intake:
        """Verify every file in the inbox and move it to `accepted/`, `held/` or `rejected/`.

        Raises:
            StorageError: no space or no permission; the inbox keeps what was not taken.
        """
        intake, patience = Intake(), Patience()
        self.restore(progress, intake)
        files = waiting(self.folder)
        with progress.bar("take in shards", len(files)) as advance:
            for path in files:
                self._take_one(path, intake, patience)
                advance(1)
        self._purge(progress, intake)
        return intake

    def take_file(self, path: Path, progress: Progress) -> Intake:
        """As `take`, for one file; one that lies elsewhere is copied to the inbox first.

        Raises:
            SltoolError: the file was refused or held; this is the reason.
        """
        intake = Intake()
        self.restore(progress, intake)
        self._take_one(self._into_inbox(path), intake, Patience(0))
        self._purge(progress, intake)
        for one in (*intake.rejected, *intake.held):
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
        intake = Intake()
        self.restore(progress, intake)
        path = self.folder.held / name
        self._take_one(path, intake, Patience(0), approved=True)
        remove(path.with_name(name + REASON))
        for one in intake.rejected:
            raise one.error

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

    def restore(self, progress: Progress, intake: Intake) -> None:
        """Make the store what `accepted/` says, whatever a crash or a withdrawal left."""
        self._withdrawn = Withdrawn(self.folder, self.study)
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

    def _purge(self, progress: Progress, intake: Intake) -> None:
        """Take the rows of the withdrawals that have just arrived out of the store."""
        if intake.withdrawn:
            self.restore(progress, intake)

    def _restore_one(self, path: Path, intake: Intake) -> None:
        try:
            with open_shard(path, self.study, self.content, arriving=False) as reader:
                segment, _ = self._stage(reader)
            self.store.commit(segment)
        except StorageError:
            raise
        except SltoolError as error:
            put_aside(path, self.folder.rejected, error)
            intake.rejected.append(Rejected(path.name, error))

    def _digest(self, path: Path) -> str:
        try:
            return read_manifest(path)[0].digest
        except ShardRefusedError:
            # `_restore_one` finds out what is wrong with it, and rejects it.
            return ""

    def _take_one(
        self, path: Path, intake: Intake, patience: Patience, approved: bool = False
    ) -> None:
        name = shown(path.name)
        try:
            with self._plain(path) as plain:
                if kind_of(path) == WITHDRAWAL:
                    self._withdraw(plain, intake)
                elif new := self._admit(plain, approved):
                    intake.accepted.append(new)
                else:
                    intake.already.append(name)
                # What is in `accepted/` now need not lie here as well.
                remove(path)
        except (StorageError, StageOrderError, UsageError):
            # Nothing is wrong with the file: this server cannot take it now.
            raise
        except HeldError as error:
            error.hint = f"ask the site; if it is right: `sltool queue approve {name}`"
            put_aside(path, self.folder.held, error)
            intake.held.append(Rejected(name, error))
        except SltoolError as error:
            if patience.still_arriving(path):
                intake.arriving.append(name)
                return
            put_aside(path, self.folder.rejected, error)
            intake.rejected.append(Rejected(name, error))

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
            self._check_place(reader, target)
            segment, impression = self._stage(reader)
            site = [one for one in self.store.segments if one.site == segment.site]
            doubt = "" if approved else suspicion(impression, segment, site)
            if doubt:
                raise HeldError(f"held for approval: {doubt}", where=path)
        move(path, target)
        self.store.commit(segment)
        return target.name

    def _check_place(self, reader: ShardReader, target: Path) -> None:
        """Raise `ShardRefusedError` unless the shard fits those of its site and split."""
        manifest, place = reader.manifest, reader.manifest.place
        if target.exists():
            raise ShardRefusedError(
                "another shard with this site, split and number was accepted before",
                where=reader.path,
                hint="both files are kept; ask the site which one is right",
            )
        for one in self.store.segments:
            if (one.site, one.split) != (place.site, place.split):
                continue
            follows = one.sequence == place.sequence - 1 and one.digest != manifest.previous
            precedes = one.sequence == place.sequence + 1 and one.previous != manifest.digest
            if follows or precedes:
                raise ShardRefusedError(
                    f"the shard is not of the same series as the accepted shard {one.sequence}",
                    where=reader.path,
                    hint="the site encoded anew in between; ask it which series is right",
                )

    def _stage(self, reader: ShardReader) -> tuple[Segment, Impression]:
        """Check every row and write those that were not withdrawn behind the store's last ones."""
        manifest, rows, impression = reader.manifest, reader.rows(), Impression()
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
            classes=self._classes(rows.labels[keep]),
        )
        features = impression.watch(reader.features(self._rows_at_once()))
        if not keep.all():
            features = kept(features, np.repeat(keep, manifest.content.views))
        segment = self.store.stage(
            segment, features, rows.labels[keep], pseudonyms, rows.groups[keep]
        )
        return replace(segment, rms=impression.rms), impression

    def _rows_at_once(self) -> int:
        return max(1, BLOCK_BYTES // self.store.shape.row_bytes)

    def _classes(self, labels: NDArray[Any]) -> tuple[int, ...]:
        if not self.content.classes:
            return ()
        return tuple(np.bincount(labels, minlength=self.content.classes).tolist())

    def _withdraw(self, path: Path, intake: Intake) -> None:
        withdrawal = read_withdrawal(path, self.study)
        target = self.folder.accepted / withdrawal.name
        if target.exists():
            intake.already.append(target.name)
            return
        intake.withdrawn[target.name] = record_runs(self.folder, self.store, withdrawal)
        move(path, target)
        self._withdrawn = Withdrawn(self.folder, self.study)

    def _into_inbox(self, path: Path) -> Path:
        if not kind_of(path):
            raise UsageError(
                f"'{shown(path.name)}' is no name of a shard or a withdrawal",
                expected="a name that ends in .h5 or .withdrawal, or in .age after that",
            )
        if path.parent.resolve() == self.folder.inbox.resolve():
            return path
        target = self.folder.inbox / path.name
        with OpenedFile(path) as file, publish(target) as part, part.open("wb") as writer:
            file.copy_to(writer)
        return target
