"""No pseudonym may be sent twice, by one site or by two."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sltool.errors import ShardRefusedError
from sltool.server.store import Store
from sltool.shard.payload import ID_BYTES


class Duplicates:
    """Looks arriving pseudonyms up in the store; keeps 8 bytes of each in memory."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._prefixes: dict[str, NDArray[np.uint64]] = {}

    def check(self, arriving: NDArray[np.bytes_], path: Path) -> None:
        """Raise `ShardRefusedError` if one of these pseudonyms is in the store."""
        found = _prefixes(arriving)
        for segment in self._store.segments:
            if segment.digest not in self._prefixes:
                self._prefixes[segment.digest] = _prefixes(self._store.pseudonyms(segment))
            alike = np.isin(found, self._prefixes[segment.digest])
            if not alike.any():
                continue
            twice = np.isin(arriving[alike], self._store.pseudonyms(segment))
            if twice.any():
                raise ShardRefusedError(
                    f"{np.count_nonzero(twice)} of the shard's pseudonyms were sent before, "
                    f"in shard {segment.sequence} of site {segment.site}, {segment.split}",
                    where=path,
                    hint="ask the site whether it split its data twice",
                )


def _prefixes(pseudonyms: NDArray[np.bytes_]) -> NDArray[np.uint64]:
    """The first 8 of each pseudonym's bytes as a number: random, so almost never alike."""
    words = ID_BYTES // np.dtype(np.uint64).itemsize
    return np.ascontiguousarray(pseudonyms).view(np.uint64).reshape(-1, words)[:, 0]
