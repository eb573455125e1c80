"""Shards, the files that a site sends: their format (docs/shard-format.md), writer and reader."""
