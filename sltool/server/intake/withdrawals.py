"""Rows of patients who withdrew: never read again, and which runs saw them."""

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
    """The pseudonyms of all withdrawals in `accepted/`, by site."""

    def __init__(self, folder: StudyFolder, study: Study) -> None:
        self._of: dict[str, set[bytes]] = {}
        for path in sorted(folder.accepted.glob(f"*{SUFFIX}")):
            one = read_withdrawal(path, study, arriving=False)
            self._of.setdefault(one.site, set()).update(_bytes(one))

    def keeps(self, site: str, pseudonyms: NDArray[np.bytes_]) -> NDArray[np.bool_]:
        """Which of a site's rows were not withdrawn."""
        return ~_among(pseudonyms, self._of.get(site, set()))

    def any_in(self, store: Store) -> bool:
        """Whether a withdrawn row still stands in the store."""
        return any(
            not self.keeps(one.site, store.pseudonyms(one)).all()
            for one in store.segments
            if one.site in self._of
        )


def record_runs(folder: StudyFolder, store: Store, withdrawal: Withdrawal) -> list[str]:
    """Which runs' checkpoints saw the rows; kept beside the withdrawal in `accepted/`.

    A run saw them if its checkpoint lists a shard, for training or validation, with such a row.
    """
    gone = _bytes(withdrawal)
    counts: dict[str, int] = {}
    shards: set[str] = set()
    for one in store.segments:
        rows = int(_among(store.pseudonyms(one), gone).sum()) if one.site == withdrawal.site else 0
        if rows:
            counts[one.split] = counts.get(one.split, 0) + rows
            shards.add(one.digest)
    runs = [name for name in folder.run_names() if shards & _seen(folder.run(name))]
    record = {"site": withdrawal.site, "samples": counts, "runs": runs}
    write_json(folder.accepted / (withdrawal.name + RUNS), record)
    return runs


def _seen(run: RunFolder) -> set[str]:
    # Only a checkpoint needs torch, which is slow to import.
    from sltool.server.checkpoint import load_checkpoint

    return set(load_checkpoint(run.checkpoint).shards) if run.checkpoint.is_file() else set()


def filter_rows(
    features: Iterable[NDArray[Any]], keep: NDArray[np.bool_]
) -> Iterator[NDArray[Any]]:
    """The rows of the blocks (n, ...) for which `keep` (all rows,) holds."""
    start = 0
    for block in features:
        yield block[keep[start : start + len(block)]]
        start += len(block)


def _bytes(withdrawal: Withdrawal) -> set[bytes]:
    return {pseudonym.encode("ascii") for pseudonym in withdrawal.pseudonyms}


def _among(pseudonyms: NDArray[np.bytes_], chosen: set[bytes]) -> NDArray[np.bool_]:
    if not chosen:
        return np.zeros(len(pseudonyms), np.bool_)
    return np.isin(pseudonyms, np.array(sorted(chosen), pseudonyms.dtype))
