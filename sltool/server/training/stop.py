"""When to stop: a signal, or the hour."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """Says whether to stop now, and why; asked after every step.

    Args:
        until: local time; None: no such hour.
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
        """Turn the first SIGTERM or Ctrl-C into a wish to stop; a second acts as ever."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.getsignal(number) for number in SIGNALS}

        def wish(number: int, frame: FrameType | None) -> None:
            self.reason = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
            _restore(before)

        for number in SIGNALS:
            signal.signal(number, wish)
        try:
            yield self
        finally:
            _restore(before)


def _restore(handlers: Mapping[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
