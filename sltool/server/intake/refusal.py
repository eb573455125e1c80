"""Where a file that was not taken in goes: rejected, held, or left where it is."""

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
from sltool.server.intake.inbox import ArrivalTimer, quarantine, shown
from sltool.server.intake.result import IntakeResult, Rejected
from sltool.study.layout import StudyFolder

# What is wrong with a file; other errors say what is wrong with this server.
FAULTS_OF_A_FILE = (ShardRefusedError, NotTrustedError, StudyMismatchError, UnreadableError)


@contextmanager
def filing(
    path: Path, folder: StudyFolder, intake: IntakeResult, patience: ArrivalTimer
) -> Iterator[None]:
    """Put the file where the body's error says it belongs, and enter it in `intake`.

    Raises:
        StorageError: the disk is full or broken, so that no other file would fare better.
    """
    name = shown(path.name)
    try:
        yield
    except QuarantinedError as error:
        error.hint = f"ask the site; if it is right: `sltool queue approve {name}`"
        if _put_aside(path, folder.held, error, intake):
            intake.held.append(Rejected(name, error))
    except FAULTS_OF_A_FILE as error:
        if patience.still_arriving(path):
            intake.arriving.append(name)
        elif _put_aside(path, folder.rejected, error, intake):
            intake.rejected.append(Rejected(name, error))
    except ImmovableError as error:
        _leave(path, error, intake)
    except StorageError:
        raise
    except (UsageError, BadDataError) as error:
        # Nothing is wrong with the file: this server cannot take it now.
        _leave(path, error, intake)


def _put_aside(path: Path, folder: Path, error: SltoolError, intake: IntakeResult) -> bool:
    """Whether the file could be moved to `folder`; if not, it is left."""
    try:
        quarantine(path, folder, error)
    except ImmovableError as stuck:
        error.hint = f"{stuck.what}; {stuck.hint}"
        _leave(path, error, intake)
        return False
    return True


def _leave(path: Path, error: SltoolError, intake: IntakeResult) -> None:
    """Enter a file that stays where it is, or is there no more."""
    outcome = intake.left if os.path.lexists(path) else intake.vanished
    outcome.append(Rejected(shown(path.name), error))
