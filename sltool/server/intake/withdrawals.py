"""Removes the rows of patients who withdrew, and records the runs that used them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sltool.files import write_json
from sltool.server.store import Store
from sltool.shard.withdrawal import SUFFIX, Withdrawal, read_withdrawal
from sltool.study.layout import RunFolder, StudyFolder
from sltool.study.schema import Study

RUNS = ".runs.json"


class WithdrawnRows:
    """The pseudonyms of all accepted withdrawals, by site."""

    def __init__(self, folder: StudyFolder, study: Study) -> None:
        self._by_site: dict[str, set[bytes]] = {}
        for path in sorted(folder.accepted.glob(f"*{SUFFIX}")):
            withdrawal = read_withdrawal(path, study, arriving=False)
            pseudonyms = self._by_site.setdefault(withdrawal.site, set())
            pseudonyms.update(_pseudonym_bytes(withdrawal))

    def keep_mask(self, site: str, pseudonyms: NDArray[np.bytes_]) -> NDArray[np.bool_]:
        """(N,) bool, True for the rows of a site that were not withdrawn."""
        return ~_membership(pseudonyms, self._by_site.get(site, set()))

    def any_in(self, store: Store) -> bool:
        """Whether the store contains withdrawn rows."""
        return any(
            not self.keep_mask(segment.site, store.pseudonyms(segment)).all()
            for segment in store.segments
            if segment.site in self._by_site
        )


def record_runs(folder: StudyFolder, store: Store, withdrawal: Withdrawal) -> list[str]:
    """The runs that used the withdrawn rows; also written beside the withdrawal in `accepted/`.

    A run used them if its checkpoint lists a training or validation shard with such a row.
    """
    withdrawn = _pseudonym_bytes(withdrawal)
    counts: dict[str, int] = {}
    shards: set[str] = set()
    for segment in store.segments:
        if segment.site != withdrawal.site:
            continue
        rows = int(_membership(store.pseudonyms(segment), withdrawn).sum())
        if rows:
            counts[segment.split] = counts.get(segment.split, 0) + rows
            shards.add(segment.digest)
    runs = [name for name in folder.run_names() if shards & _used_shards(folder.run(name))]
    record = {"site": withdrawal.site, "samples": counts, "runs": runs}
    write_json(folder.accepted / (withdrawal.name + RUNS), record)
    return runs


def _used_shards(run: RunFolder) -> set[str]:
    # Imported here: only reading a checkpoint needs torch, which is slow to import.
    from sltool.server.checkpoint import load_checkpoint

    return set(load_checkpoint(run.checkpoint).shards) if run.checkpoint.is_file() else set()


def filter_rows(
    features: Iterable[NDArray[Any]], keep: NDArray[np.bool_]
) -> Iterator[NDArray[Any]]:
    """Yield the blocks (n, ...) without the rows where `keep`, (all rows,) bool, is False."""
    start = 0
    for block in features:
        yield block[keep[start : start + len(block)]]
        start += len(block)


def _pseudonym_bytes(withdrawal: Withdrawal) -> set[bytes]:
    return {pseudonym.encode("ascii") for pseudonym in withdrawal.pseudonyms}


def _membership(pseudonyms: NDArray[np.bytes_], chosen: set[bytes]) -> NDArray[np.bool_]:
    if not chosen:
        return np.zeros(len(pseudonyms), np.bool_)
    return np.isin(pseudonyms, np.array(sorted(chosen), pseudonyms.dtype))
