"""Writes TensorBoard event files: one record per epoch, with all its figures.

torch's SummaryWriter is not used: its background thread does not report a full disk.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import time
from pathlib import Path
from typing import Any

from sltool.errors import StorageError
from sltool.files import open_in_place


def events_from(folder: Path, epoch: int) -> Events | None:
    """Events from `epoch` on; None if tensorboard is not installed."""
    return Events(folder, epoch) if importlib.util.find_spec("tensorboard") else None


class Events:
    """An event file of this process in `folder`; it replaces earlier events from `epoch` on.

    Raises:
        StorageError: no space or no permission; also raised by `add`.
    """

    def __init__(self, folder: Path, epoch: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        self._path = folder / name
        start = SessionLog(status=SessionLog.START)
        self._append(Event(file_version="brain.Event:2"), Event(step=epoch, session_log=start))

    def add(self, row: dict[str, Any]) -> None:
        """Write the figures of an epoch's row of `history.csv`."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in row.items()
            if isinstance(value, float)
        ]
        self._append(Event(step=row["epoch"], summary=Summary(value=values)))

    def _append(self, *events: Any) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        try:
            with open_in_place(self._path, "ab") as file:
                writer = RecordWriter(file)
                for event in events:
                    event.wall_time = time.time()
                    writer.write(event.SerializeToString())
        except OSError as error:
            raise StorageError.of(error, self._path) from error
