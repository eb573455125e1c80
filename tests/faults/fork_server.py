"""A warm process that forks the real command line, with a fault armed; see `shim.c`.

Started with the shim preloaded. Each line on stdin is a JSON list of [folder, arguments, number of
the call that is struck (-1: none), errno or 0 for SIGKILL or -1 for Ctrl-C, seconds until SIGKILL
or Ctrl-C or null]; the answer is a line with [exit code, calls counted, output].
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

from sltool.__main__ import main as sltool_main
from sltool.cli.interrupt import ctrl_c

INTERRUPT = -1
STAGES = (
    ["prepare", "cholesterol", "--seed", "0", "--set", "training.epochs=1"],
    ["partition"],
    ["client-encode"],
    ["ship"],
    ["server-train"],
)


def warm_up() -> None:
    """Run every stage here once, so that all their imports are done before the first fork."""
    with tempfile.TemporaryDirectory() as folder:
        for stage in STAGES:
            run(folder, [*stage, "--quiet"])


def run(folder: str, arguments: list[str]) -> int:
    os.chdir(folder)
    sys.argv = ["sltool", *arguments]
    try:
        sltool_main()
    except SystemExit as end:
        return int(end.code or 0)


def child(
    shim: Any, folder: str, arguments: list[str], failing_call: int, action: int, out: int
) -> None:
    shim.fault_arm(os.fsencode(folder), failing_call if failing_call >= 0 else 2**40, action)
    ctrl_c.install()  # The signal may come before `main`.
    code = run(folder, arguments)
    count = shim.fault_count()
    shim.fault_arm(b"", -1, 0)
    os.write(out, json.dumps([code, count]).encode())
    os._exit(0)


def serve(shim: Any, request: list[Any]) -> list[Any]:
    *call, seconds = request
    with tempfile.TemporaryFile("w+") as output:
        return forked(shim, call, seconds, output)


def forked(shim: Any, call: list[Any], seconds: float | None, output: IO[str]) -> list[Any]:
    inner, outer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(output.fileno(), 2)
        os.dup2(output.fileno(), 1)
        child(shim, *call, outer)
    os.close(outer)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(pid, signal.SIGINT if call[-1] == INTERRUPT else signal.SIGKILL)
    answer = os.read(inner, 1000)
    os.close(inner)
    _, status = os.waitpid(pid, 0)
    output.seek(0)
    ended = [os.waitstatus_to_exitcode(status), 0]
    return [*(json.loads(answer) if answer else ended), output.read()]


def main() -> None:
    shim = ctypes.CDLL(str(Path(os.environ["LD_PRELOAD"])))
    shim.fault_arm.argtypes = [ctypes.c_char_p, ctypes.c_long, ctypes.c_int]
    shim.fault_count.restype = ctypes.c_long
    warm_up()
    # Ctrl-C is ignored by what a script starts in the background, and by a command that is done.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for line in sys.stdin:
        print(json.dumps(serve(shim, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
