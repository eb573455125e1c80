"""Counts in sentences."""

from __future__ import annotations


def plural(count: int, noun: str, nouns: str = "") -> str:
    """'1 sample', '2 samples'.

    Args:
        noun: what follows the number 1: 'sample', 'sample is'.
        nouns: what follows any other; by default `noun` with an s.
    """
    return f"{count} {noun if count == 1 else nouns or f'{noun}s'}"
