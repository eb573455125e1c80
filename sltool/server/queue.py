"""The queue: inbox -> accepted (and the store) or rejected. Nothing is ever deleted."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from sltool.errors import ShardRefusedError, SltoolError, StorageError
from sltool.files import fsync, sha256, write_json
from sltool.layout import StudyFolder
from sltool.models.base import feature_shape
from sltool.progress import Progress
from sltool.server.store import Segment, Shape, Store
from sltool.shard.manifest import Content, Manifest
from sltool.shard.payload import CHUNK_BYTES
from sltool.study import Study

# Feature maps are moved to the store in blocks of about this many bytes.
BLOCK_BYTES = 256 * CHUNK_BYTES


@dataclass(frozen=True)
class Rejected:
    """A shard that was refused, and why."""

    name: str
    error: SltoolError


@dataclass
class Intake:
    """What one look into the inbox brought, by file name."""

    accepted: list[str] = field(default_factory=list)
    already: list[str] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)


class Queue:
    """The server's line of arrived shards."""

    def __init__(self, folder: StudyFolder, study: Study) -> None:
        self.folder = folder
        self.study = study
        encoding = study.encoding_digest(folder.privacy_layer)
        shape = feature_shape(study)
        self.content = Content.of(study, encoding, shape)
        self.store = Store(
            folder.store,
            encoding,
            Shape(shape, self.content.dtype, self.content.label == "regression"),
        )

    def take(self, progress: Progress) -> Intake:
        """Verify every shard in the inbox and move it to `accepted/` or `rejected/`.

        Raises:
            StorageError: no space or no permission; the inbox keeps what was not taken.
        """
        self._restore(progress)
        intake = Intake()
        waiting = sorted(self.folder.inbox.glob("*.h5"))
        with progress.bar("take in shards", len(waiting)) as advance:
            for path in waiting:
                self._take_one(path, intake)
                advance(1)
        return intake

    def _take_one(self, path: Path, intake: Intake) -> None:
        from sltool.shard.reader import verify  # HDF5 and cryptography: not before a shard arrives

        try:
            manifest = verify(path, self.study, self.content)
            target = self.folder.accepted / manifest.place.name
            if target.exists() and sha256(target) == sha256(path):
                path.unlink()
                intake.already.append(path.name)
                return
            if target.exists():
                raise ShardRefusedError(
                    "another shard with this site, split and number was accepted before",
                    where=path,
                    hint="both files are kept; ask the site which one is right",
                )
            # A crash after this step leaves the shard in the store and in the inbox.
            if manifest.digest not in self.store:
                self._store(path, manifest)
            _move(path, target)
            intake.accepted.append(target.name)
        except StorageError:
            raise
        except SltoolError as error:
            self._reject(path, error)
            intake.rejected.append(Rejected(path.name, error))

    def _store(self, path: Path, manifest: Manifest) -> None:
        from sltool.shard.reader import ShardReader

        place = manifest.place
        with ShardReader(path, manifest) as reader:
            rows = reader.rows()
            self._check_pseudonyms(rows.pseudonyms.tolist(), path)
            segment = Segment(
                manifest.digest,
                place.site,
                place.split,
                place.sequence,
                start=0,
                samples=manifest.samples,
                views=manifest.content.views,
            )
            at_once = max(1, BLOCK_BYTES // self.store.shape.row_bytes)
            features = reader.features(at_once)
            self.store.add(segment, features, rows.labels, rows.pseudonyms, rows.groups)
        self._known.update(rows.pseudonyms.tolist())

    @cached_property
    def _known(self) -> set[bytes]:
        """The pseudonyms in the store."""
        return self.store.pseudonyms()

    def _check_pseudonyms(self, arriving: list[bytes], path: Path) -> None:
        twice = self._known.intersection(arriving)
        if twice:
            raise ShardRefusedError(
                f"{len(twice)} of the shard's pseudonyms were sent before, in another shard",
                where=path,
                hint="ask the site whether it split its data twice",
            )

    def _reject(self, path: Path, error: SltoolError) -> None:
        target = self.folder.rejected / path.name
        number = 1
        while target.exists():
            target = self.folder.rejected / f"{path.stem}.{number}{path.suffix}"
            number += 1
        reason = {"shard": path.name, "reason": error.what, **dict(error.details())}
        write_json(target.with_name(target.name + ".reason.json"), reason)
        _move(path, target)

    def _restore(self, progress: Progress) -> None:
        """Bring into the store what lies in `accepted/` and is not there."""
        stored = {(one.site, one.split, one.sequence) for one in self.store.segments}
        for path in sorted(self.folder.accepted.glob("*.h5")):
            site, split, sequence = path.stem.rsplit("-", 2)
            if (site, split, int(sequence)) not in stored:
                from sltool.shard.reader import verify

                progress.detail(f"back into the store: {path.name}")
                self._store(path, verify(path, self.study, self.content))


def _move(path: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
        fsync(target.parent)
    except OSError as error:
        raise StorageError.of(error, target) from error
