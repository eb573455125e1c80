"""What travels: the shard's format (docs/shard-format.md), its writer and its reader."""
