"""Refuses shards with pseudonyms that a site has sent before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sltool.errors import ShardRefusedError
from sltool.server.store import Store
from sltool.shard.payload import ID_BYTES


class Duplicates:
    """Searches the store for arriving pseudonyms, with an 8-byte prefix of each in memory."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._prefixes: dict[str, NDArray[np.uint64]] = {}

    def check(self, arriving: NDArray[np.bytes_], path: Path) -> None:
        """Raise `ShardRefusedError` if any of these pseudonyms is in the store."""
        arriving_prefixes = _prefixes(arriving)
        for segment in self._store.segments:
            if segment.digest not in self._prefixes:
                self._prefixes[segment.digest] = _prefixes(self._store.pseudonyms(segment))
            candidates = np.isin(arriving_prefixes, self._prefixes[segment.digest])
            if not candidates.any():
                continue
            repeated = np.isin(arriving[candidates], self._store.pseudonyms(segment))
            if repeated.any():
                raise ShardRefusedError(
                    f"{np.count_nonzero(repeated)} of the shard's pseudonyms were sent before, "
                    f"in shard {segment.sequence} of site {segment.site}, {segment.split}",
                    where=path,
                    hint="ask the site whether it partitioned its data twice",
                )


def _prefixes(pseudonyms: NDArray[np.bytes_]) -> NDArray[np.uint64]:
    """The first 8 bytes of each pseudonym as an integer; random, so almost always unique."""
    words = ID_BYTES // np.dtype(np.uint64).itemsize
    return np.ascontiguousarray(pseudonyms).view(np.uint64).reshape(-1, words)[:, 0]
