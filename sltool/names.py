"""The one rule for names that become files and folders: runs, sites, arms, datasets, models.

Such a name comes from a command line or from a file, so it must not lead out of its folder, and it
must be the same name on every disk that a study is carried on.
"""

from __future__ import annotations

import re

from sltool.errors import UsageError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
NAME_RULE = (
    "up to 64 letters, digits, dots, dashes and underscores; the first one a letter or a digit, "
    "the last one no dot"
)
# A site's name also stands in front of '-train-00000.h5', and in YAML without quotes.
SITE_NAME = r"^[A-Za-z][A-Za-z0-9_]{0,31}$"
SITE_RULE = "a letter, then up to 31 letters, digits or underscores"
# Windows takes these for devices, whatever stands behind a dot.
RESERVED = re.compile(r"(CON|PRN|AUX|NUL|COM[0-9]|LPT[0-9])(\..*)?", re.IGNORECASE)


def check_name(kind: str, name: str) -> str:
    """`name`, if a `kind` ('run', 'dataset', ...) can be called so.

    Raises:
        UsageError: it cannot; the message shows it with control characters escaped.
    """
    if not NAME.fullmatch(name) or name.endswith(".") or is_reserved(name):
        raise _wrong(kind, name, NAME_RULE)
    return name


def check_site_name(name: str) -> str:
    """`name`, if a site can be called so.

    Raises:
        UsageError: it cannot.
    """
    if not re.fullmatch(SITE_NAME, name) or is_reserved(name):
        raise _wrong("site", name, SITE_RULE)
    return name


def is_reserved(name: str) -> bool:
    """Whether Windows keeps this name for a device."""
    return bool(RESERVED.fullmatch(name))


def _wrong(kind: str, name: str, rule: str) -> UsageError:
    shown = ascii(name if len(name) <= 80 else name[:80] + "...")
    reserved = "; CON, NUL and the like are names of devices" if is_reserved(name) else ""
    return UsageError(
        f"a {kind} cannot be called {shown}",
        expected=rule + reserved,
        hint=f"choose another name for the {kind}",
    )
