"""The shards that a run trains on, and from which epoch on."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from sltool.errors import BadDataError, StageOrderError
from sltool.server.store import Segment, Store
from sltool.server.training.data import TrainingData
from sltool.server.training.distributed import Ranks
from sltool.wording import plural


class ShardSelection:
    """The shards of one run, of all sites or of some.

    Attributes:
        shards: digest -> the first epoch (from 1) that includes the shard.

    Args:
        inbox: where the sites' shards arrive, for messages.
    """

    def __init__(self, store: Store, sites: Sequence[str], inbox: Path, ranks: Ranks) -> None:
        self.shards: dict[str, int] = {}
        self._store = store
        self._sites = sites
        self._inbox = inbox
        self._ranks = ranks

    def restore(self, shards: dict[str, int]) -> None:
        """Set the shards of a resumed run, from its checkpoint.

        Raises:
            BadDataError: a shard is not in the store.
        """
        self._check_in_store(shards)
        self.shards = shards

    def join(self, epoch: int) -> bool:
        """Include all shards in rank 0's store from `epoch` on.

        Returns:
            Whether the samples have changed.

        Raises:
            StageOrderError: there are no training samples, or none of a requested site.
            BadDataError: a shard in rank 0's store is not in this rank's.
        """
        before = self._used()
        self._store.refresh()
        arrived = self._ranks.broadcast([segment.digest for segment in self._arrived()])
        if not set(self._staying()) <= set(arrived):
            # The watcher is rebuilding the store; files that are mapped stay readable.
            return False
        self._check_in_store(arrived)
        new = [digest for digest in arrived if digest not in self.shards]
        self.shards = {**self.shards, **dict.fromkeys(new, epoch)}
        self.check_sites()
        return self._used() != before

    def joined_at(self, epoch: int) -> list[str]:
        """The names of the shards that joined at `epoch`."""
        return [
            segment.name for segment in self._arrived() if self.shards.get(segment.digest) == epoch
        ]

    def unused_count(self) -> int:
        """The count of shards in the store that the run does not use."""
        return sum(segment.digest not in self.shards for segment in self._arrived())

    def data(self) -> TrainingData:
        """The samples of the shards in use."""
        train, validation = (
            self._store.samples(split, self._sites, self.shards)
            for split in ("train", "validation")
        )
        return TrainingData(train, validation)

    def digests_until(self, epoch: int) -> list[str]:
        """The shards that the weights of `epoch` depend on, as digests.

        These are the training shards up to that epoch, and all validation shards: they decide
        which epoch is the best.
        """
        return sorted(
            segment.digest
            for segment in self._used()
            if segment.split == "validation" or self.shards[segment.digest] <= epoch
        )

    def absent_classes(self) -> list[int]:
        """The indices of the classes without a training sample."""
        training = [segment.classes for segment in self._used() if segment.split == "train"]
        totals = [sum(counts) for counts in zip(*training, strict=True)]
        return [index for index, total in enumerate(totals) if not total]

    def document(self) -> dict[str, Any]:
        """`sites` and `shards` for `run.json`."""
        shards = [
            {
                "shard": segment.name,
                "digest": segment.digest,
                "samples": segment.samples,
                "from_epoch": self.shards[segment.digest],
            }
            for segment in self._used()
        ]
        return {"sites": sorted(self._training_sites()), "shards": shards}

    def _training_sites(self) -> set[str]:
        training = (segment for segment in self._used() if segment.split == "train")
        return {segment.site for segment in training if segment.samples}

    def _staying(self) -> list[str]:
        """The digests of the run's shards without those of sites that left the study."""
        store = self._store
        left = {segment.digest for segment in store.segments if segment.site in store.left}
        return [digest for digest in self.shards if digest not in left]

    def _used(self) -> list[Segment]:
        return [segment for segment in self._arrived() if segment.digest in self.shards]

    def _arrived(self) -> list[Segment]:
        return [
            segment
            for split in ("train", "validation")
            for segment in self._store.select(split, self._sites)
        ]

    def _check_in_store(self, shards: Collection[str]) -> None:
        missing = len(set(shards) - {segment.digest for segment in self._store.segments})
        if missing:
            raise BadDataError(
                f"{plural(missing, 'shard')} of the run not found in the store",
                where=self._store.folder,
                hint="move them back to server/accepted; several machines need a shared folder",
            )

    def check_sites(self) -> None:
        """Raise `StageOrderError` if there are no training samples, or none of a requested site."""
        present = self._training_sites()
        for site in self._sites:
            if site not in present:
                raise StageOrderError(
                    f"no training sample of site {site} has arrived",
                    where=self._inbox,
                    hint=f"run `sltool client-encode` and `sltool ship` at site {site}",
                )
        if not present:
            raise StageOrderError(
                "no training sample has arrived yet",
                where=self._inbox,
                hint="run `sltool client-encode` and `sltool ship` at the sites",
            )
