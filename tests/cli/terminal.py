"""Running the program in a terminal of its own, as a person does."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

from tests.conftest import ROOT


def in_terminal(
    folder: Path, *arguments: object, columns: int = 80, **environment: str
) -> tuple[int, str, str]:
    """`sltool ARGS` whose stderr is a terminal: exit code, stdout, and what the terminal got."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    inherited = {name: value for name, value in os.environ.items() if name not in CHANGING}
    with subprocess.Popen(
        [sys.executable, "-m", "sltool", *map(str, arguments)],
        cwd=folder,
        env={**inherited, "TERM": "xterm", "PYTHONPATH": str(ROOT), **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        shown = _read(ours)
        assert process.stdout is not None
        out = process.stdout.read().decode()
    os.close(ours)
    return process.returncode, out, shown


CHANGING = ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "TERM")


def _read(terminal: int) -> str:
    parts = []
    while True:
        try:
            part = os.read(terminal, 2**16)
        except OSError:  # Linux: no process has the terminal open any more.
            break
        if not part:
            break
        parts.append(part)
    return b"".join(parts).decode()
