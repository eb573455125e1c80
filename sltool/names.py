"""The rules for names that become files and folders: runs, sites, arms, datasets, models.

Such a name comes from a command line or from a file, so it must not be a path out of its folder,
and it must be valid on every file system to which a study may be copied.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from sltool.errors import UsageError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
NAME_RULE = (
    "up to 64 letters, digits, dots, dashes and underscores; the first a letter or a digit, "
    "the last not a dot"
)
# A site's name is also a prefix of '-train-00000.h5', and is written to YAML without quotes.
SITE_NAME = r"^[A-Za-z][A-Za-z0-9_]{0,31}$"
SITE_LENGTH = 32
SITE_RULE = "a letter, then up to 31 letters, digits or underscores"
# Windows treats these as devices, with any extension.
RESERVED = re.compile(r"(CON|PRN|AUX|NUL|COM[0-9]|LPT[0-9])(\..*)?", re.IGNORECASE)


def check_name(kind: str, name: str) -> str:
    """Return `name` if it is valid for a `kind` ('run', 'dataset', ...).

    Raises:
        UsageError: it is not valid; the message shows it with control characters escaped.
    """
    if not NAME.fullmatch(name) or name.endswith(".") or is_reserved(name):
        raise _invalid_name(kind, name, NAME_RULE)
    return name


def check_site_name(name: str) -> str:
    """Return `name` if it is valid for a site.

    Raises:
        UsageError: it is not valid.
    """
    if not re.fullmatch(SITE_NAME, name) or is_reserved(name):
        raise _invalid_name("site", name, SITE_RULE)
    return name


def site_names_of(values: Iterable[str]) -> dict[str, str]:
    """A valid and unique site name for each distinct text, in sorted order.

    'Zürich Nord' -> 'Zurich_Nord', '2016' -> 'S2016'. A name that is taken, whatever its case, gets
    a number: 'A_2'.
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    for value in sorted(set(values)):
        decomposed = unicodedata.normalize("NFKD", value)
        letters = decomposed.encode("ascii", "ignore").decode("ascii")
        base = re.sub(r"[^A-Za-z0-9]+", "_", letters).strip("_")
        base = base if base[:1].isalpha() and not is_reserved(base) else f"S{base}"
        name, count = base[:SITE_LENGTH], 1
        while name.lower() in taken:
            count += 1
            suffix = f"_{count}"
            name = base[: SITE_LENGTH - len(suffix)] + suffix
        taken.add(name.lower())
        names[value] = name
    return names


def check_case(kind: str, name: str, others: Iterable[str]) -> None:
    """Raise `UsageError` if `name` is not among the others, but is in upper or lower case.

    On Windows, and mostly on macOS, both would be the same folder.
    """
    others = set(others)
    twin = next((other for other in others if other.lower() == name.lower()), None)
    if twin is not None and name not in others:
        raise UsageError(
            f"the {kind} {name} cannot be told from the {kind} {twin} on every system",
            expected=f"{twin}, or a name that differs in more than upper and lower case",
            hint=f"choose another name for the {kind}, or give {twin}",
        )


def is_reserved(name: str) -> bool:
    """Whether Windows reserves this name for a device."""
    return bool(RESERVED.fullmatch(name))


def _invalid_name(kind: str, name: str, rule: str) -> UsageError:
    shown = ascii(name if len(name) <= 80 else name[:80] + "...")
    reserved = "; CON, NUL and similar names are reserved for devices" if is_reserved(name) else ""
    return UsageError(
        f"a {kind} cannot be called {shown}",
        expected=rule + reserved,
        hint=f"choose another name for the {kind}",
    )
