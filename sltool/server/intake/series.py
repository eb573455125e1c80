"""Each shard of a site and split has its number, and names the one before it."""

from __future__ import annotations

from pathlib import Path

from sltool.errors import ShardRefusedError
from sltool.server.store import Store
from sltool.shard.reader import ShardReader


def check_place(reader: ShardReader, target: Path, store: Store) -> None:
    """Raise `ShardRefusedError` unless the shard fits the accepted ones of its site and split.

    Args:
        target: where it would lie in `accepted/`.
    """
    manifest, place = reader.manifest, reader.manifest.place
    if target.exists():
        raise ShardRefusedError(
            "another shard with this site, split and number was accepted before",
            where=reader.path,
            hint="both files are kept; ask the site which one is right",
        )
    for one in store.segments:
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
