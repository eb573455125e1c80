"""Command lines that a person copies to a shell: POSIX's, or PowerShell and cmd on Windows."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable

WINDOWS = os.name == "nt"
# PowerShell takes a comma for a list, and @ at the start of a word for a variable.
PLAIN = {
    False: re.compile(r"[\w%@+=:,./-]+", re.ASCII),
    True: re.compile(r"[\w%+=:.\\/-]+", re.ASCII),
}
# Within double quotes; PowerShell takes typographic quotes for these too.
SPECIAL = {False: frozenset('"$`\\!'), True: frozenset('"$`\u201c\u201d\u201e')}


def quoted(word: str, windows: bool = WINDOWS) -> str:
    """The word as it is typed: in double quotes if it needs any, which every shell knows.

    What has a character that is special within them is in single quotes, which cmd does not know.
    """
    if PLAIN[windows].fullmatch(word):
        return word
    if not SPECIAL[windows] & set(word):
        return f'"{word}"'
    return "'" + word.replace("'", "''") + "'" if windows else shlex.quote(word)


def command_line(words: Iterable[str], windows: bool = WINDOWS) -> str:
    """The words, each quoted where it has to be."""
    return " ".join(quoted(word, windows) for word in words)
