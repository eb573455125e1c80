"""Which shards take part in a run, and from which epoch on."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch

from sltool.errors import BadDataError, StageOrderError
from sltool.server.ranks import Ranks
from sltool.server.store import Segment, Store
from sltool.server.trainer import Data


class Roster:
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
        arrived = self._ranks.told([one.digest for one in self._arrived()])
        if not set(self.shards) <= set(arrived):
            # The watcher is making the store anew; what is mapped stays.
            return False
        self._check_there(arrived)
        new = [digest for digest in arrived if digest not in self.shards]
        self.shards = {**self.shards, **dict.fromkeys(new, epoch)}
        self._check_sites()
        return self._used() != before

    def since(self, epoch: int) -> list[str]:
        """The names of the shards that joined at `epoch`."""
        return [one.name for one in self._arrived() if self.shards.get(one.digest) == epoch]

    def left_out(self) -> int:
        """How many shards have arrived and take no part."""
        return sum(one.digest not in self.shards for one in self._arrived())

    def data(self) -> Data:
        """The samples of the shards that take part."""
        train, validation = (
            self._store.samples(split, self._sites, self.shards)
            for split in ("train", "validation")
        )
        return Data(train, validation)

    def segments(self) -> list[Segment]:
        """The training shards, in the order of their samples."""
        return self._store.chosen("train", self._sites, self.shards)

    def absent_classes(self) -> list[int]:
        """The numbers of the classes of which no training sample takes part."""
        counts = [
            sum(column) for column in zip(*(one.classes for one in self.segments()), strict=True)
        ]
        return [number for number, count in enumerate(counts) if not count]

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
        return {"sites": sorted({one.site for one in self.segments()}), "shards": shards}

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

    def _check_sites(self) -> None:
        there = {one.site for one in self.segments()}
        for site in self._sites:
            if site not in there:
                raise StageOrderError(
                    f"no training shard of site {site} has arrived",
                    where=self._inbox,
                    hint=f"run `sltool client-encode` and `sltool ship` at site {site}",
                )
        if not there:
            raise StageOrderError(
                "no training shard has arrived yet",
                where=self._inbox,
                hint="run `sltool client-encode` and `sltool ship` at the sites",
            )


def carried(before: list[Segment], now: list[Segment], taken: torch.Tensor) -> torch.Tensor:
    """Where the sampler stands when shards join: those that stay as they were keep their turns."""
    parts = torch.split(taken, [one.samples for one in before])
    known = {(one.digest, one.samples): part for one, part in zip(before, parts, strict=True)}
    return torch.cat(
        [
            known.get((one.digest, one.samples), torch.zeros(one.samples, dtype=torch.bool))
            for one in now
        ]
    )
