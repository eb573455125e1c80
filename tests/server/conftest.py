"""A small study whose shards lie in an outbox, and how to run the real server on it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.conftest import DATA, ROOT, Sltool, call_main

PATIENCE = 60.0


@pytest.fixture(scope="session")
def encoded_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled patients at three sites, encoded and not shipped."""
    folder = tmp_path_factory.mktemp("encoded") / "study"
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
            "training.epochs=6",
            "training.batch_size=16",
        ],
        ["partition"],
        ["client-encode"],
    ):
        assert call_main(folder, *stage, "--quiet") == 0
    return folder


@dataclass
class Server:
    """A study's folder at the server, and commands in it."""

    sltool: Sltool

    @property
    def folder(self) -> Path:
        return self.sltool.folder

    def run_folder(self, name: str = "default") -> Path:
        return self.folder / "server" / "runs" / name

    def weights(self, name: str = "default") -> dict[str, torch.Tensor]:
        return load_file(self.run_folder(name) / "model.safetensors")

    def card(self, name: str = "default") -> dict[str, str]:
        with safe_open(self.run_folder(name) / "model.safetensors", "pt") as file:
            return dict(file.metadata())

    def checkpoint(self, name: str = "default") -> dict[str, Any]:
        path = self.run_folder(name) / "checkpoint.pt"
        loaded: dict[str, Any] = torch.load(path, weights_only=True)
        return loaded

    def history(self, name: str = "default") -> list[dict[str, str]]:
        import csv

        with (self.run_folder(name) / "history.csv").open() as file:
            return list(csv.DictReader(file))

    def log(self, name: str = "default") -> str:
        return (self.run_folder(name) / "log.txt").read_text()

    def set_training(self, **values: object) -> None:
        """Change keys of `training` in study.yaml."""
        path = self.folder / "study.yaml"
        lines = path.read_text().splitlines()
        start = lines.index("training:")
        for key, value in values.items():
            line = next(n for n in range(start, len(lines)) if lines[n].startswith(f"  {key}:"))
            lines[line] = f"  {key}: {value}"
        path.write_text("\n".join(lines) + "\n")

    def start(self, *args: object, **environment: str) -> subprocess.Popen[str]:
        """`sltool server-train ARGS` as a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "sltool", "server-train", *map(str, args)],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Whether two networks are the same, bit for bit."""
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def wait_until(true: Callable[[], bool], what: str) -> None:
    """Poll for at most PATIENCE seconds."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, f"not within {PATIENCE} s: {what}"
        time.sleep(0.02)


def end(process: subprocess.Popen[str], signal_number: signal.Signals) -> tuple[int, str]:
    """Send a signal; returns the exit code and stderr."""
    process.send_signal(signal_number)
    _, stderr = process.communicate(timeout=PATIENCE)
    return process.returncode, stderr


@pytest.fixture
def server(encoded_study: Path, sltool: Sltool) -> Server:
    """A copy of `encoded_study`; nothing is shipped yet."""
    shutil.copytree(encoded_study, sltool.folder, dirs_exist_ok=True)
    return Server(sltool)


@pytest.fixture
def shipped(server: Server) -> Server:
    """All three sites have shipped."""
    server.sltool("ship").ok()
    return server


@pytest.fixture(scope="session")
def ct_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained study of 800 real CT slices at three sites."""
    whole = DATA / "covid-ct-sao-paulo"
    if not whole.exists():
        pytest.skip(f"no real data at {whole}: set SLTOOL_TEST_DATA")
    folder = tmp_path_factory.mktemp("ct") / "study"
    for name in ("COVID", "non-COVID"):
        (folder / "slices" / name).mkdir(parents=True)
        for path in sorted((whole / name).iterdir())[:400]:
            shutil.copyfile(path, folder / "slices" / name / path.name)
    settings = ("dataset.size=32", "training.epochs=3", "model.filters=[1,8,16]")
    for stage in (
        ["prepare", "covid-ct", "--source", "slices", "--seed", "0", "--set", *settings],
        ["partition"],
        ["client-encode"],
        ["ship"],
        ["server-train"],
    ):
        assert call_main(folder, *stage, "--quiet") == 0
    return folder


@pytest.fixture
def ct(ct_study: Path, sltool: Sltool) -> Sltool:
    """The command line in a copy of `ct_study`."""
    shutil.copytree(ct_study, sltool.folder, dirs_exist_ok=True)
    return sltool
