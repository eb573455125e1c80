"""The errors that sltool raises on purpose, and their exit codes.

SltoolError               1   a bug in sltool
├── UsageError            2   the command or the study file is wrong
│   ├── StudyFileError        study.yaml has a mistake
│   ├── StageOrderError       another stage has to run first
│   ├── MissingPackageError   an optional package is not installed
│   └── UnknownNameError      no dataset, model, metric or site of this name
├── BadDataError          3   the input data cannot be used
│   ├── StorageError          a file could not be read or written (space, permission)
│   │   ├── UnreadableError       this one file cannot be read
│   │   └── ImmovableError        this one file cannot be moved or deleted
│   └── PrivacyLimitError     shards reveal more than the study allows, or were not audited
├── ShardRefusedError     4   a shard violates the format or contains bad data
│   └── QuarantinedError      it looks suspicious and waits for approval
├── NotTrustedError       5   a key, signature or enrolment is not accepted
├── StudyMismatchError    6   a file belongs to another study or encoding
└── DivergedError         7   the training loss or a weight is not finite

Each message states what is wrong, where, what was expected and what to do next; `cli/main.py`
prints it.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import ClassVar

# Packages of the extra `server` by their names when imported.
SERVER_PACKAGES = ("torch", "scipy", "sklearn")


class SltoolError(Exception):
    """The root of the tree.

    Args:
        what: the problem, in one sentence.
        where: the file, key or row.
        expected: what would have been valid.
        hint: what the user should do next.
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self, what: str, *, where: str | Path = "", expected: str = "", hint: str = ""
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = str(where)
        self.expected = expected
        self.hint = hint

    def __str__(self) -> str:
        lines = [self.what]
        for label, text in self.details():
            lines.append(f"  {label + ':':<10}{text}")
        return "\n".join(lines)

    def details(self) -> list[tuple[str, str]]:
        """The known facts apart from `what`, as (label, text)."""
        facts = [("where", self.where), ("expected", self.expected), ("next", self.hint)]
        return [(label, text) for label, text in facts if text]


class UsageError(SltoolError):
    """The command or the study file is wrong."""

    exit_code = 2


class StudyFileError(UsageError):
    """study.yaml has a mistake."""

    def __init__(
        self, what: str, *, where: str | Path = "study.yaml", expected: str = "", hint: str = ""
    ) -> None:
        super().__init__(what, where=where, expected=expected, hint=hint)


class StageOrderError(UsageError):
    """Another stage has to run first."""


class MissingPackageError(UsageError):
    """A package is not installed that this needs.

    Args:
        package: its name, as it is imported.
        purpose: what needs it.
        extra: the extra of sltool that installs it.
    """

    def __init__(self, package: str, purpose: str, extra: str) -> None:
        super().__init__(
            f"{purpose} needs {package}, which is not installed here",
            hint=f'pip install "sltool[{extra}]"',
        )
        self.package = package

    @classmethod
    def of(cls, error: ModuleNotFoundError) -> MissingPackageError | None:
        """The error for an import that failed; None if the package is not one of an extra."""
        package = (error.name or "").partition(".")[0]
        if package not in SERVER_PACKAGES:
            return None
        return cls(package, "this command", "server")


class UnknownNameError(UsageError):
    """No dataset, model, metric, site or run of this name."""

    @classmethod
    def of(cls, kind: str, name: str, known: Iterable[str], *, hint: str = "") -> UnknownNameError:
        """The error for `name`, with the nearest match and the list of known names."""
        names = sorted(known)
        return cls(
            f"unknown {kind} '{name}'{nearest(name, names)}",
            expected=f"one of {', '.join(names)}" if names else f"there is no {kind} yet",
            hint=hint,
        )


class BadDataError(SltoolError):
    """The input data cannot be used."""

    exit_code = 3


class StorageError(BadDataError):
    """A file could not be read or written: no space, no permission, no such folder."""

    @classmethod
    def of(cls, error: OSError, path: str | Path, doing: str = "write") -> StorageError:
        """The error for a file operation at `path` that the operating system refused."""
        return cls(
            f"could not {doing} the file: {error.strerror or error}",
            where=path,
            hint="check the free space and the permissions there, then run the command again; "
            "no partly written file was left under a final name",
        )


class UnreadableError(StorageError):
    """The operating system refuses to read this file: no permission, or it no longer exists."""


class ImmovableError(StorageError):
    """The operating system refuses to move or delete this file."""


class PrivacyLimitError(BadDataError):
    """Shards reveal more than the study's `privacy` section allows, or were not audited.

    Args:
        reason: the requirement of the study that is not met.
    """

    def __init__(
        self, site: str, reason: str, *, where: str | Path = "", expected: str = "", hint: str = ""
    ) -> None:
        super().__init__(
            f"site {site} may not ship: {reason}", where=where, expected=expected, hint=hint
        )
        self.reason = reason


class ShardRefusedError(SltoolError):
    """A shard violates the format or contains bad data."""

    exit_code = 4


class QuarantinedError(ShardRefusedError):
    """A shard looks suspicious and waits for a person's approval."""


class NotTrustedError(SltoolError):
    """A key, signature or enrolment is not accepted."""

    exit_code = 5


class StudyMismatchError(SltoolError):
    """A file belongs to another study or encoding."""

    exit_code = 6


class DivergedError(SltoolError):
    """The training loss or a weight is not finite."""

    exit_code = 7


def nearest(name: str, known: Iterable[str]) -> str:
    """'; did you mean ...?' for the closest of `known`, or nothing."""
    matches = get_close_matches(name, list(known), n=1)
    return f"; did you mean '{matches[0]}'?" if matches else ""
