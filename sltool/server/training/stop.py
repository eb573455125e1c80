"""Stops training at a signal or at a given time."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from types import FrameType
from typing import Any

from sltool.machine import CTRL_C, TERMINATED

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """Whether to stop now, and why; called after every step.

    Args:
        until: local time to stop at; None: no limit.
    """

    def __init__(self, until: datetime | None = None) -> None:
        self.reason = ""
        self._until = until

    def __call__(self) -> bool:
        if not self.reason and self._until is not None and datetime.now() >= self._until:
            self.reason = f"it is {self._until.isoformat(timespec='minutes')}"
        return bool(self.reason)

    @contextmanager
    def on_signals(self) -> Iterator[Stop]:
        """Record the first SIGTERM or Ctrl-C as a request to stop; a second one acts as usual."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        handlers = {signum: signal.getsignal(signum) for signum in SIGNALS}

        def request_stop(signum: int, frame: FrameType | None) -> None:
            self.reason = CTRL_C if signum == signal.SIGINT else TERMINATED
            _restore(handlers)

        for signum in SIGNALS:
            signal.signal(signum, request_stop)
        try:
            yield self
        finally:
            _restore(handlers)


def _restore(handlers: Mapping[signal.Signals, Any]) -> None:
    for signum, handler in handlers.items():
        signal.signal(signum, handler)
