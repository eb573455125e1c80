"""Shared fixtures: the folder of real data, and the real command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("SLTOOL_TEST_DATA", ROOT.parent / "shared" / "data"))

# pytest-xdist sets it in its workers; with it, sltool breaks lines into a file as well.
os.environ.pop("COLUMNS", None)


def project_files() -> list[str]:
    """The project's files, relative to its root: those that git tracks, or all of an sdist."""
    if (ROOT / ".git").exists():
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        names = {name for name in listed.stdout.split("\0") if name}
        return sorted(name for name in names if (ROOT / name).exists())
    made = {".venv", "__pycache__", "build", "dist", ".hypothesis", "PKG-INFO"}
    paths = [path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file()]
    return sorted(
        str(path)
        for path in paths
        if not made & {*path.parts} and not any(part.endswith("_cache") for part in path.parts)
    )


@dataclass(frozen=True)
class Ran:
    """The result of one run of the real command line."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def ok(self) -> Ran:
        """This run, after checking that it succeeded."""
        assert self.code == 0, f"exit code {self.code}\n{self.out}\n{self.err}"
        return self


class Sltool:
    """The command line in one folder. `run` starts a new process; a call runs in this process."""

    def __init__(self, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capfd = capfd

    def run(self, *args: object, **environment: str) -> Ran:
        """`sltool ARGS` in a new process, as a user runs it."""
        done = subprocess.run(
            [sys.executable, "-m", "sltool", *map(str, args)],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def __call__(self, *args: object) -> Ran:
        """The same through `main` in this process, which saves `import torch`."""
        self._capfd.readouterr()
        code = call_main(self.folder, *args)
        captured = self._capfd.readouterr()
        return Ran(code, captured.out, captured.err)


def call_main(folder: Path, *args: object) -> int:
    """Run the program's `main` in this process; returns its exit code."""
    from sltool.cli.main import main

    before, argv = Path.cwd(), sys.argv
    os.chdir(folder)
    sys.argv = ["sltool", *map(str, args)]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        os.chdir(before)
        sys.argv = argv


@pytest.fixture
def sltool(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Sltool:
    """The command line in an empty folder."""
    folder = tmp_path / "study"
    folder.mkdir()
    return Sltool(folder, capfd)


@pytest.fixture(scope="session")
def trained_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of the bundled patients in which every stage has run; copied by `trained`."""
    folder = tmp_path_factory.mktemp("trained") / "study"
    folder.mkdir()
    for stage in (
        [
            "prepare",
            "cholesterol",
            "--recipe",
            "paper",
            "--seed",
            "0",
            "--set",
            "training.epochs=20",
        ],
        ["partition"],
        ["client-encode"],
        ["ship"],
        ["server-train"],
    ):
        assert call_main(folder, *stage, "--quiet") == 0
    return folder


@pytest.fixture
def trained(trained_study: Path, sltool: Sltool) -> Sltool:
    """The command line in a copy of `trained_study`."""
    shutil.copytree(trained_study, sltool.folder, dirs_exist_ok=True)
    return sltool


@pytest.fixture
def data() -> Callable[[str], Path]:
    """A path in the folder of real data; the test is skipped where that is absent."""

    def find(name: str) -> Path:
        path = DATA / name
        if not path.exists():
            pytest.skip(f"no real data at {path}: set SLTOOL_TEST_DATA")
        return path

    return find


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data, for fixtures of the session."""
    if not DATA.exists():
        pytest.skip(f"no real data at {DATA}: set SLTOOL_TEST_DATA")
    return DATA


@pytest.fixture(autouse=True)
def _clean_plugins() -> Iterator[None]:
    """Removes the plug-ins that a test loaded."""
    from sltool import registry

    for registered in registry.registries.values():
        registered._load_builtins()
    before = {name: dict(registered._entries) for name, registered in registry.registries.items()}
    yield
    for name, registered in registry.registries.items():
        registered._entries = before[name]
        registered._waiting = None
        registered.broken.clear()
    registry.broken_plugins.clear()
    registry._loaded_files.clear()
