"""Taking shards in beside training: a process of its own, of low priority."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path

from sltool.errors import SltoolError, StudyMismatchError
from sltool.progress import Silent
from sltool.server.store import Store
from sltool.server.training.distributed import Ranks
from sltool.server.training.stop import Stop
from sltool.study.layout import StudyFolder
from sltool.study.study_file import load_study

SECONDS_BETWEEN_LOOKS = 1.0
# Measured on two cores: epochs lose less than 10 % while a shard is taken in, and it still is taken
# in (some 6 MB/s) although training keeps all processors busy.
LOW_PRIORITY = 18


@dataclass(frozen=True)
class WatcherReport:
    """What the watcher did with shards.

    Attributes:
        rejected: refused or held, with the reason of each.
        left: those that stay in the inbox.
        error: why it has ended.
    """

    accepted: list[str]
    rejected: list[tuple[str, str]]
    left: list[tuple[str, str]] = field(default_factory=list)
    error: str = ""


@contextmanager
def watching(folder: StudyFolder, encoding: str) -> Iterator[Callable[[], list[WatcherReport]]]:
    """Take shards in until the body ends; the value yielded returns what is new.

    Args:
        encoding: the store's; a study.yaml that changes it meanwhile ends the watch.
    """
    from sltool.registry import loaded_plugins

    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    watcher = context.Process(target=_watch, args=(folder.root, encoding, loaded_plugins(), there))
    watcher.start()
    there.close()
    try:
        yield lambda: _received(here)
    finally:
        # What it is writing meanwhile is left as after a crash, which the next look repairs.
        watcher.terminate()
        watcher.join()


def _received(connection: Connection) -> list[WatcherReport]:
    reports = []
    while not connection.closed and connection.poll():
        try:
            one = connection.recv()
        except (EOFError, ConnectionResetError):
            one = WatcherReport([], [], error="the process that takes them in has ended")
        if one.error:
            connection.close()
        reports.append(one)
    return reports


def _watch(root: Path, encoding: str, plugins: list[Path], connection: Connection) -> None:
    """The watcher's life: look into the inbox until the trainer is gone."""
    import torch

    from sltool.registry import load_plugins
    from sltool.server.intake.queue import Queue  # noqa: F401 - before the first shard, at full speed

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the trainer's business.
    os.nice(LOW_PRIORITY)
    torch.set_num_threads(1)
    load_plugins(plugins)
    folder = StudyFolder(root)
    threading.Thread(target=_die_with_trainer, args=(connection,), daemon=True).start()
    broadcast: list[tuple[str, str]] = []
    while True:
        try:
            reports = _look(folder, encoding)
        except SltoolError as error:
            connection.send(WatcherReport([], [], error=str(error)))
            return
        # What is left is met again at every look, and told once.
        new = replace(reports, left=[one for one in reports.left if one not in broadcast])
        broadcast += new.left
        if new.accepted or new.rejected or new.left:
            connection.send(new)
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _die_with_trainer(connection: Connection) -> None:
    """The trainer never writes; the connection ends when it does, however that is."""
    with suppress(EOFError, OSError):
        connection.recv()
    os._exit(0)


def _look(folder: StudyFolder, encoding: str) -> WatcherReport:
    """Take in what lies in the inbox, by study.yaml as it is now: it may list a new site."""
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
        [(one.name, one.error.what) for one in (*intake.rejected, *intake.held)],
        [(one.name, str(one.error)) for one in intake.left],
    )


def wait_for(
    store: Store, sites: Sequence[str], take: Callable[[], None], stop: Stop, ranks: Ranks
) -> bool:
    """Take shards in until training samples of these sites (none: of any) are there.

    Returns:
        False if `stop` said so before.
    """
    while True:
        if ranks.is_first:
            take()
        there = store.sites()
        arrived = ranks.broadcast(bool(there) and set(sites) <= set(there))
        if arrived or ranks.any(stop()):
            return arrived
        time.sleep(SECONDS_BETWEEN_LOOKS)
