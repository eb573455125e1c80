"""What travels: the shard's format (docs/reference/shard-format.md), its writer and its reader."""
