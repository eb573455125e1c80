"""A hospital whose system is not POSIX: every command of a site, and what the server reads.

`without_posix/sitecustomize.py` says what is taken away. Folders, files, classes and patients have
spaces and letters that are in no Western code page.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT, call_main

HERE = Path(__file__).resolve().parent
PROGRAM = """
import io, json, os, sys
if sys.argv[1] != "torch":
    sys.modules["torch"] = None
import sltool.site.prepare
from sltool.cli.main import main

# Few pictures, and yet worker processes.
sltool.site.prepare.PARALLEL_FROM = 8
if __name__ == "__main__":
    for folder, *words in json.load(sys.stdin.buffer):
        os.chdir(folder)
        sys.argv = ["sltool", *words]
        print(json.dumps(words), flush=True)
        try:
            main()
        except SystemExit as end:
            if end.code:
                sys.exit(f"{words}: exit code {end.code}")
"""
CLASSES = ("Kränklich ő", "gesund 健康")


class Hospital:
    """Folders that share nothing, in a folder with a name from everywhere."""

    def __init__(self, root: Path) -> None:
        self.root = root / "Żółć Studie 研究"
        self.coordinator = self.root / "Koordinator"
        self.site = self.root / "Spital Nord é"
        self.server = self.root / "Server"
        self.disk = self.root / "USB Stick ü"
        self.source = pictures(self.root / "Bilder ß 影像")
        for folder in (self.coordinator, self.site, self.server):
            folder.mkdir()
        self.program = root / "program.py"
        self.program.write_text(PROGRAM, encoding="utf-8")

    def run(self, backend: str, *commands: tuple[Any, ...]) -> str:
        """`sltool` for each (folder, *words), in one process without POSIX; what it printed."""
        lines = [[str(word) for word in command] for command in commands]
        done = subprocess.run(
            [sys.executable, self.program, backend],
            input=json.dumps(lines),
            cwd=self.root,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(map(str, (HERE / "without_posix", ROOT))),
                "PYTHONIOENCODING": "cp1252",
                "PYTHONUTF8": "0",
                "LC_ALL": "C.UTF-8",
            },
            capture_output=True,
            encoding="cp1252",
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout


def pictures(folder: Path, each: int = 16, side: int = 24) -> Path:
    """Grey pictures in a folder for each class, several of a patient."""
    rng = np.random.default_rng(0)
    for code, name in enumerate(CLASSES):
        for index in range(each):
            path = folder / name / f"Łuk {code}{index // 2:02}" / f"Bild {index % 2} ñ.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 120, (side, side), dtype=np.uint8) + np.uint8(100 * code)
            Image.fromarray(pixels).save(path)
    return folder


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    """A hospital that has joined, encoded, asked and shipped without POSIX and without torch."""
    hospital = Hospital(tmp_path_factory.mktemp("portable"))
    here, site = hospital.coordinator, hospital.site
    settings = ("dataset.size=16", "training.epochs=1", "training.batch_size=8")
    for stage in (
        ("study", "new", "images", "--source", hospital.source, "--set", *settings),
        ("study", "kit"),
    ):
        assert call_main(here, *stage) == 0
    hospital.printed = hospital.run(
        "numpy",
        (site, "join", here / "study-kit.zip", "--site", "B"),
        (site, "prepare", "--source", hospital.source),
        (site, "partition", "--site", "B"),
        (site, "client-encode", "--site", "B", "--backend", "numpy"),
        (site, "inspect", "outbox/B/B-train-00000.h5", "--html", "Bericht ę.html"),
        (site, "ship", "--site", "B", "--to", hospital.disk),
        (site, "log", "--site", "B"),
        (site, "status"),
    )
    return hospital


def test_it(hospital: Hospital) -> None:
    print(hospital.printed)
