"""Ctrl-C: the process ends at once, and a line says what is kept and what to type next.

Every stage leaves a state that the next command understands, whenever the process is killed. So
nothing has to be unwound, and no `KeyboardInterrupt` is raised: it could come where it is lost, or
where it breaks a library (HDF5 crashes when a write fails while a file is being closed).

Imports next to nothing: `sltool/__main__.py` installs it before anything else is imported.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from sltool.shell import command_line

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

EXIT_CODE = 130
UNCHANGED = "nothing was changed"
# Clears the line of a progress bar, and shows the cursor that the bar has hidden.
CLEAR_BAR = b"\r\x1b[2K\x1b[?25h"


class StoppedError(Exception):
    """The user stopped a command that ends in order: it has printed its result."""


class CtrlC:
    """What the line says, and the signal's handler.

    Attributes:
        kept: what a command that is stopped now leaves behind.
    """

    kept = UNCHANGED

    def install(self) -> None:
        """End the process at Ctrl-C from now on, unless its parent has it ignored."""
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._end)

    def ignore(self) -> None:
        """From now on the command is done, and prints its result."""
        if signal.getsignal(signal.SIGINT) == self._end:
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    def line(self) -> str:
        """'stopped; the files that were sent are kept. To go on: sltool ship --site A'."""
        return f"stopped; {self.kept}. To go on: {command_typed()}"

    def document(self) -> dict[str, Any]:
        """The same for `--json`."""
        return {
            "error": "stopped by Ctrl-C",
            "exit_code": EXIT_CODE,
            "kept": self.kept,
            "next": command_typed(),
        }

    def _end(self, signum: int, frame: FrameType | None) -> NoReturn:
        _end_workers()
        # Not `print`: the signal may have come in the middle of one.
        if "rich" in sys.modules and os.isatty(2):
            os.write(2, CLEAR_BAR)
        os.write(2, f"{self.line()}\n".encode())
        if wants_json(sys.argv):
            import json

            os.write(1, f"{json.dumps(self.document(), indent=2)}\n".encode())
        os._exit(EXIT_CODE)


ctrl_c = CtrlC()


def command_typed() -> str:
    """The command line, to be typed again."""
    return command_line(["sltool", *sys.argv[1:]])


def wants_json(argv: Sequence[str]) -> bool:
    """Whether the command line has `--json`, also where it cannot be parsed."""
    options = argv[: argv.index("--")] if "--" in argv else argv
    return "--json" in options


def _end_workers() -> None:
    if "multiprocessing.process" in sys.modules:
        import multiprocessing

        for worker in multiprocessing.active_children():
            worker.kill()
