"""The attackers, a file each."""
