"""Moves a file that was not accepted: to `rejected/`, to `held/`, or nowhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sltool.errors import (
    BadDataError,
    ImmovableError,
    NotTrustedError,
    QuarantinedError,
    ShardRefusedError,
    SltoolError,
    StorageError,
    StudyMismatchError,
    UnreadableError,
    UsageError,
)
from sltool.server.intake.inbox import ArrivalTimer, move_with_reason, printable
from sltool.server.intake.result import IntakeResult, Rejected
from sltool.study.layout import StudyFolder

# Errors that are caused by the file; others are caused by this server.
FILE_ERRORS = (ShardRefusedError, NotTrustedError, StudyMismatchError, UnreadableError)


@contextmanager
def outcome_recorded(
    path: Path, folder: StudyFolder, intake: IntakeResult, timer: ArrivalTimer
) -> Iterator[None]:
    """Move the file as the error raised in the body requires, and record it in `intake`.

    Raises:
        StorageError: the disk is full or broken, which affects all other files as well.
    """
    name = printable(path.name)
    try:
        yield
    except QuarantinedError as error:
        error.hint = f"ask the site; if the shard is right, run `sltool queue approve {name}`"
        if _move(path, folder.quarantine, error, intake):
            intake.quarantined.append(Rejected(name, error))
    except FILE_ERRORS as error:
        if timer.still_arriving(path):
            intake.arriving.append(name)
        elif _move(path, folder.rejected, error, intake):
            intake.rejected.append(Rejected(name, error))
    except ImmovableError as error:
        _leave(path, error, intake)
    except StorageError:
        raise
    except (UsageError, BadDataError) as error:
        # The file is not at fault: this server cannot process it now.
        _leave(path, error, intake)


def _move(path: Path, folder: Path, error: SltoolError, intake: IntakeResult) -> bool:
    """Move the file to `folder`; False if it cannot be moved and stays."""
    try:
        move_with_reason(path, folder, error)
    except ImmovableError as stuck:
        error.hint = f"{stuck.what}; {stuck.hint}"
        _leave(path, error, intake)
        return False
    return True


def _leave(path: Path, error: SltoolError, intake: IntakeResult) -> None:
    """Record a file that stays where it is, or no longer exists."""
    outcome = intake.left if os.path.lexists(path) else intake.vanished
    outcome.append(Rejected(printable(path.name), error))
