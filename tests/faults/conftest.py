"""The warm process that forks the command line, for all tests of faults."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

ALL = os.environ.get("SLTOOL_FAULTS") == "all"


class Zygote:
    """Runs the command line in forks of a warm process."""

    def __init__(self, shim: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.fork_server"],
            cwd=ROOT,
            env={
                **os.environ,
                "LD_PRELOAD": str(shim),
                "PYTHONPATH": str(ROOT),
                # A fork of a process whose thread pool has run waits for threads it has not.
                "OMP_NUM_THREADS": "1",
                "MKL_NUM_THREADS": "1",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(
        self,
        folder: Path,
        arguments: list[str],
        failing_call: int = -1,
        action: int = 0,
        seconds: float | None = None,
    ) -> tuple[int, int, str]:
        """The exit code (-9: killed), the calls counted, and what was said.

        Args:
            failing_call: the number of the call that is struck; -1: none.
            action: an errno, 0 for SIGKILL or `INTERRUPT`.
            seconds: until SIGKILL or Ctrl-C.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = [str(folder), arguments, failing_call, action, seconds]
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        code, count, output = json.loads(self._process.stdout.readline())
        return code, count, output

    def ok(self, folder: Path, arguments: list[str]) -> int:
        code, count, output = self.run(folder, arguments)
        assert code == 0, output
        return count

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@pytest.fixture(scope="session")
def fork_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("the fault harness needs Linux and a C compiler")
    shim = tmp_path_factory.mktemp("shim") / "shim.so"
    source = ROOT / "tests" / "faults" / "shim.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", shim, source, "-ldl"], check=True)
    warm = Zygote(shim)
    yield warm
    warm.close()
