"""Checks the series of shards: each has a sequence number and the digest of its predecessor."""

from __future__ import annotations

from pathlib import Path

from sltool.errors import ShardRefusedError
from sltool.server.store import Store
from sltool.shard.reader import ShardReader


def check_place(reader: ShardReader, target: Path, store: Store) -> None:
    """Raise `ShardRefusedError` unless the shard fits the accepted ones of its site and split.

    Args:
        target: its path in `accepted/`, once accepted.
    """
    manifest, place = reader.manifest, reader.manifest.place
    if target.exists():
        raise ShardRefusedError(
            "another shard with this site, split and sequence number was accepted before",
            where=reader.path,
            hint="both files are preserved; ask the site which of them is right",
        )
    for segment in store.segments:
        if (segment.site, segment.split) != (place.site, place.split):
            continue
        step = segment.sequence - place.sequence
        predecessor_differs = step == -1 and segment.digest != manifest.previous
        successor_differs = step == 1 and segment.previous != manifest.digest
        if predecessor_differs or successor_differs:
            raise ShardRefusedError(
                f"the shard is not of the same series as the accepted shard {segment.sequence}",
                where=reader.path,
                hint="the site encoded again in between; ask it which series is right",
            )
