"""Datasets: a source's real layout -> samples, labels, groups. One file each."""
