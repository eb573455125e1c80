"""Takes shards in during training, in a separate process of low priority."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path

from sltool.errors import SltoolError, StudyMismatchError
from sltool.machine import sheltered_from_ctrl_c
from sltool.progress import Silent
from sltool.server.store import Store
from sltool.server.training.distributed import Ranks
from sltool.server.training.stop import Stop
from sltool.study.layout import StudyFolder
from sltool.study.study_file import load_study

POLL_SECONDS = 1.0
# Measured on two cores: epochs slow down by less than 10 % while shards are taken in, at about 6
# MB/s although training keeps all processors busy.
LOW_PRIORITY = 18


@dataclass(frozen=True)
class WatcherReport:
    """What the watcher did with shards: (name, reason) of those that were not accepted.

    Attributes:
        rejected: refused or quarantined.
        left: still in the inbox.
        error: why the watcher has ended; '' while it runs.
    """

    accepted: list[str]
    rejected: list[tuple[str, str]]
    left: list[tuple[str, str]] = field(default_factory=list)
    error: str = ""


@contextmanager
def watching(folder: StudyFolder, encoding: str) -> Iterator[Callable[[], list[WatcherReport]]]:
    """Run the watcher until the body ends; yields a function that returns the new reports.

    Args:
        encoding: digest of the store's encoding; if study.yaml changes it, the watcher ends.
    """
    from sltool.registry import loaded_plugins

    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe()
    watcher = context.Process(target=_watch, args=(folder.root, encoding, loaded_plugins(), sender))
    with sheltered_from_ctrl_c():
        watcher.start()
    sender.close()
    try:
        yield lambda: _received(receiver)
    finally:
        # A write that this interrupts is repaired by the next `Queue.restore`, as after a crash.
        watcher.terminate()
        watcher.join()


def _received(connection: Connection) -> list[WatcherReport]:
    reports = []
    while not connection.closed and connection.poll():
        try:
            report = connection.recv()
        except (EOFError, ConnectionResetError):
            report = WatcherReport([], [], error="the watcher process has ended")
        if report.error:
            connection.close()
        reports.append(report)
    return reports


def _watch(root: Path, encoding: str, plugins: list[Path], connection: Connection) -> None:
    """Main function of the watcher: poll the inbox until the trainer ends."""
    import torch

    from sltool.registry import load_plugins
    from sltool.server.intake.queue import Queue  # noqa: F401 - imported before the priority drops

    if hasattr(os, "nice"):
        os.nice(LOW_PRIORITY)
    torch.set_num_threads(1)
    load_plugins(plugins)
    folder = StudyFolder(root)
    threading.Thread(target=_exit_with_trainer, args=(connection,), daemon=True).start()
    reported: list[tuple[str, str]] = []
    while True:
        try:
            report = _poll(folder, encoding)
        except SltoolError as error:
            connection.send(WatcherReport([], [], error=str(error)))
            return
        # A file that stays in the inbox is found by every poll, but reported once.
        new = replace(report, left=[entry for entry in report.left if entry not in reported])
        reported += new.left
        if new.accepted or new.rejected or new.left:
            connection.send(new)
        time.sleep(POLL_SECONDS)


def _exit_with_trainer(connection: Connection) -> None:
    """Exit when the connection closes, as it does however the trainer ends; it never sends."""
    with suppress(EOFError, OSError):
        connection.recv()
    os._exit(0)


def _poll(folder: StudyFolder, encoding: str) -> WatcherReport:
    """Take the inbox in, with study.yaml as it is now: it may list a new site."""
    from sltool.server.intake.inbox import waiting

    if not waiting(folder):
        return WatcherReport([], [])
    from sltool.server.intake.queue import Queue

    queue = Queue(folder, load_study(folder))
    if queue.store.encoding != encoding:
        raise StudyMismatchError(
            "the study's encoding was changed while training",
            where=folder.study_file,
            hint="no more shards are taken in until the next `sltool server-train`",
        )
    intake = queue.take(Silent())
    return WatcherReport(
        intake.accepted,
        [(file.name, file.error.what) for file in (*intake.rejected, *intake.quarantined)],
        [(file.name, str(file.error)) for file in intake.left],
    )


def wait_for(
    store: Store, sites: Sequence[str], take: Callable[[], None], stop: Stop, ranks: Ranks
) -> bool:
    """Take shards in until all these sites (none: any site) have sent training samples.

    Returns:
        False if `stop` ended the wait.
    """
    while True:
        if ranks.is_first:
            take()
        present = store.sites()
        arrived = ranks.broadcast(bool(present) and set(sites) <= set(present))
        if arrived or ranks.any(stop()):
            return arrived
        time.sleep(POLL_SECONDS)
