"""`make first-prediction`: the tutorial of three hospitals, typed in a new environment and timed.

From `pip install` to the first prediction that a hospital has joined to its patients, in processes,
with a real bucket and a real SFTP server on this machine. Prints what docs/performance.md states.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.docs.console import Command, code_blocks, session
from tests.storage_servers import s3_server, sftp_server

PAGE = ROOT / "docs" / "tutorial-three-hospitals.md"
EXTRAS = "age,s3,server,sftp"
# 40 words of five characters a minute.
CHARACTERS_A_MINUTE = 200


def timed(words: list[str] | str, folder: Path, environment: dict[str, str]) -> float:
    """Seconds of a command, or of a line for the shell."""
    start = time.perf_counter()
    subprocess.run(
        words,
        cwd=folder,
        env=environment,
        check=True,
        shell=isinstance(words, str),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - start


def make_environment(root: Path) -> tuple[dict[str, str], float]:
    """Environment variables for a new virtual environment in which sltool is installed; seconds."""
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    environment["PATH"] = f"{root / 'venv' / 'bin'}{os.pathsep}{environment['PATH']}"
    seconds = timed([sys.executable, "-m", "venv", str(root / "venv")], root, environment)
    install = ["pip", "install", "--constraint", str(ROOT / "constraints.txt")]
    return environment, seconds + timed([*install, f"{ROOT}[{EXTRAS}]"], root, environment)


def type_the_page(root: Path, environment: dict[str, str]) -> list[tuple[Command, float]]:
    """Every command of the page and its seconds; ends with the first `resolve`."""
    for name in ("server", "hospital-a", "hospital-b", "hospital-c", "mail", "usb"):
        (root / name).mkdir()
    (tables,) = code_blocks(PAGE, "python")
    (root / "tables.py").write_text(tables)
    done = [(Command("", "python tables.py"), timed("python tables.py", root, environment))]
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        stack.enter_context(s3_server(patch, "study-inbox"))
        stack.enter_context(sftp_server(patch, root / "ssh", "drop-box"))
        environment = {**os.environ, "PATH": environment["PATH"]}
        environment.pop("PYTHONPATH", None)
        for command in session(PAGE):
            seconds = timed(command.text, root / command.who, environment)
            done.append((command, seconds))
            print(f"{seconds:6.1f} s  {command.who:<10}  {command.text}", file=sys.stderr)
            if command.text.startswith("sltool resolve"):
                return done
    raise AssertionError("the page resolves no prediction")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        environment, installing = make_environment(root)
        done = type_the_page(root, environment)
    typed = [command for command, _ in done]
    by_party = Counter(command.who or "all" for command in typed)
    seconds = sum(took for _, took in done)
    characters = sum(len(command.text) for command in typed)
    begin, *_ = code_blocks(PAGE, "sh")
    parties = ", ".join(f"{count} {party}" for party, count in by_party.items())
    print(f"pip install: {installing:.0f} s (it depends on the network)")
    print(f"lines to begin with, pip install among them: {len(begin.splitlines())}")
    print(f"commands: {len(typed)} ({parties}), {characters} characters")
    print(f"the machine at work: {seconds / 60:.1f} min")
    print(f"typed at 40 words a minute: {characters / CHARACTERS_A_MINUTE:.1f} min")


if __name__ == "__main__":
    main()
