"""Which shards take part in a run, and from which epoch on."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from sltool.errors import BadDataError, StageOrderError
from sltool.server.store import Segment, Store
from sltool.server.training.data import TrainingData
from sltool.server.training.distributed import Ranks


class ShardSelection:
    """The shards of one run, of all sites or of some.

    Attributes:
        shards: digest -> the first epoch (from 1) of which it is a part.

    Args:
        inbox: where a site's shards should have come, for messages.
    """

    def __init__(self, store: Store, sites: Sequence[str], inbox: Path, ranks: Ranks) -> None:
        self.shards: dict[str, int] = {}
        self._store = store
        self._sites = sites
        self._inbox = inbox
        self._ranks = ranks

    def take_up(self, shards: dict[str, int]) -> None:
        """The shards of a run that goes on.

        Raises:
            BadDataError: one is not in the store.
        """
        self._check_there(shards)
        self.shards = shards

    def join(self, epoch: int) -> bool:
        """Let the shards that rank 0 has in its store take part from `epoch` on.

        Returns:
            Whether the samples are others than before.

        Raises:
            StageOrderError: there are no training samples, or none of a site that was named.
            BadDataError: this rank does not see a shard that rank 0 sees.
        """
        before = self._used()
        self._store.refresh()
        arrived = self._ranks.broadcast([one.digest for one in self._arrived()])
        if not set(self.shards) <= set(arrived):
            # The watcher is making the store anew; what is mapped stays.
            return False
        self._check_there(arrived)
        new = [digest for digest in arrived if digest not in self.shards]
        self.shards = {**self.shards, **dict.fromkeys(new, epoch)}
        self.check_sites()
        return self._used() != before

    def since(self, epoch: int) -> list[str]:
        """The names of the shards that joined at `epoch`."""
        return [one.name for one in self._arrived() if self.shards.get(one.digest) == epoch]

    def left_out(self) -> int:
        """How many shards have arrived and take no part."""
        return sum(one.digest not in self.shards for one in self._arrived())

    def data(self) -> TrainingData:
        """The samples of the shards that take part."""
        train, validation = (
            self._store.samples(split, self._sites, self.shards)
            for split in ("train", "validation")
        )
        return TrainingData(train, validation)

    def behind(self, epoch: int) -> list[str]:
        """The digests behind the weights of `epoch`: trained on till then, or chosen by now."""
        return sorted(
            one.digest
            for one in self._used()
            if one.split == "validation" or self.shards[one.digest] <= epoch
        )

    def absent_classes(self) -> list[int]:
        """The indices of the classes of which no training sample takes part."""
        training = [segment.classes for segment in self._used() if segment.split == "train"]
        totals = [sum(counts) for counts in zip(*training, strict=True)]
        return [index for index, total in enumerate(totals) if not total]

    def documents(self) -> dict[str, Any]:
        """`sites` and `shards` for `run.json`."""
        used = self._used()
        shards = [
            {
                "shard": one.name,
                "digest": one.digest,
                "samples": one.samples,
                "from_epoch": self.shards[one.digest],
            }
            for one in used
        ]
        return {"sites": sorted(self._training_sites()), "shards": shards}

    def _training_sites(self) -> set[str]:
        return {one.site for one in self._used() if one.split == "train" and one.samples}

    def _used(self) -> list[Segment]:
        return [one for one in self._arrived() if one.digest in self.shards]

    def _arrived(self) -> list[Segment]:
        return [
            one
            for split in ("train", "validation")
            for one in self._store.chosen(split, self._sites)
        ]

    def _check_there(self, shards: Collection[str]) -> None:
        missing = len(set(shards) - {one.digest for one in self._store.segments})
        if missing:
            raise BadDataError(
                f"{missing} shards of the run are not in the store",
                where=self._store.folder,
                hint="bring them back to server/accepted; with several machines, let all see "
                "the same folder",
            )

    def check_sites(self) -> None:
        """Raise `StageOrderError` if there are no training samples, or none of a named site."""
        there = self._training_sites()
        for site in self._sites:
            if site not in there:
                raise StageOrderError(
                    f"no training sample of site {site} is there",
                    where=self._inbox,
                    hint=f"run `sltool client-encode` and `sltool ship` at site {site}",
                )
        if not there:
            raise StageOrderError(
                "no training sample is there yet",
                where=self._inbox,
                hint="run `sltool client-encode` and `sltool ship` at the sites",
            )
