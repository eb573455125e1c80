"""A hospital whose system is not POSIX: every command of a site, and what the server reads.

`without_posix/sitecustomize.py` says what is taken away. Folders, files, classes and patients have
spaces and letters that are in no Western code page.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sltool.shard.encryption import make_identity
from sltool.shard.keys import SigningKey
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
PATIENT, TABLE = "Łuk 3", "Tabelle ď.csv"
TEXT = {".csv", ".json", ".jsonl", ".head", ".pub", ".yaml", ".html", ".withdrawal"}
CLASSES = ("Kränklich ő", "gesund 健康")


# Each does what Windows has not, or refuses.
REFUSED = """
import fcntl
import pwd
import resource
os.pread(3, 1, 0)
os.open(".", os.O_RDONLY)
open(".", "rb")
os.fork()
multiprocessing.get_context("fork")
os.fsync(open("open.txt", "rb").fileno())
os.replace("open.txt", "other.txt")
Path("other.txt").replace("open.txt")
Path("open.txt").unlink()
Path("OPEN.txt").touch()
open("a:b", "w")
open("nul.txt", "w")
Path("end. ").mkdir()
open("latin.txt", "w").write("\\u0142")
print("\\u0142")
"""
SIMULATION = """
import multiprocessing, os, sys
from pathlib import Path

Path("other.txt").touch()
held = open("open.txt", "w")
for line in sys.stdin.read().splitlines():
    try:
        exec(line)
    except (ImportError, AttributeError, ValueError, OSError):
        continue
    sys.exit(f"this system can do {line}")
open("lines.txt", "w").write("1\\n")
assert Path("lines.txt").read_bytes() == b"1\\r\\n"

import threading
from sltool.files import write_text
threading.Timer(0.2, held.close).start()
write_text(Path("open.txt"), "written once nobody had it open")
"""


class Parties:
    """A site's folder, and the coordinator's and server's, in a folder with a name of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root / "Żółć Studie 研究"
        self.server, self.site = self.root / "Koordinator ő", self.root / "Spital Nord é"
        self.disk, self.source = self.root / "USB Stick ü", self.root / "Bilder ß 影像"
        self.cases = self.root / "Neu Ž"
        self.server.mkdir(parents=True)
        self.site.mkdir()
        self.rows = [*pictures(self.source, "Łuk", 0), *pictures(self.source, "Łuk", 1)]
        pictures(self.cases, "Žák", 2)
        self.program = root / "program.py"
        self.program.write_text(PROGRAM, encoding="utf-8")
        self.printed = ""

    def write_table(self, months: int) -> None:
        """The table of the source's pictures, as a spreadsheet on Windows writes it."""
        with (self.source / TABLE).open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.writer(file, lineterminator="\r\n")
            writer.writerow(["file", "patient", "label"])
            writer.writerows(self.rows[: months * len(self.rows) // 2])

    def run(self, backend: str, *commands: tuple[Path | str, ...]) -> str:
        """`sltool` for each (folder, *words), in one process without POSIX; what it printed."""
        lines = json.dumps([[str(word) for word in command] for command in commands])
        return without_posix(self.root, lines, self.program, backend)


def without_posix(folder: Path, given: str, *program: Path | str) -> str:
    """Run a Python program on a simulated system, whose code page is cp1252; what it printed."""
    done = subprocess.run(
        [sys.executable, *program],
        input=given,
        cwd=folder,
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


def test_the_simulated_system_is_not_posix(tmp_path: Path) -> None:
    """And a file that another program has open for a moment is replaced all the same."""
    without_posix(tmp_path, REFUSED.strip(), "-c", SIMULATION)
    assert (tmp_path / "open.txt").read_text().startswith("written")


def pictures(folder: Path, people: str, month: int) -> list[list[str]]:
    """Grey pictures of 12 patients, two of each, and their rows in a table."""
    rng, rows = np.random.default_rng(month), []
    for index in range(24):
        code, number = index % 4 // 2, index // 2 + 12 * month
        path = folder / CLASSES[code] / f"{people} {number}" / f"Bild {index % 2} ñ.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 120, (24, 24), dtype=np.uint8) + np.uint8(100 * code)
        Image.fromarray(pixels).save(path)
        name = "\\".join(path.relative_to(folder).parts)
        rows.append([name, f"{people} {number}", CLASSES[code]])
    return rows


@pytest.fixture(scope="module")
def parties(tmp_path_factory: pytest.TempPathFactory) -> Parties:
    """A hospital that has joined, encoded, asked, shipped and withdrawn, without torch."""
    parties = Parties(tmp_path_factory.mktemp("portable"))
    parties.write_table(months=1)
    server, site, disk = parties.server, parties.site, parties.disk
    # Shares so large that each split has samples, however the hospital draws them.
    shares = ("split.validation=0.3", "split.test=0.3")
    settings = ("dataset.size=16", f"dataset.table={TABLE}", "training.epochs=1", *shares)
    new = ("study", "new", "images", "--source", parties.source, "--set", *settings)
    assert call_main(server, *new) == 0
    assert call_main(server, "server-keys") == 0
    identity = make_identity(server / "server" / "identity")
    key = SigningKey.load(server / "server" / "key").public
    study = server / "study.yaml"
    text = study.read_text(encoding="utf-8").replace("recipient: null", f"recipient: {identity}")
    study.write_text(text.replace("  key: null", f"  key: {key}"), encoding="utf-8")
    assert call_main(server, "study", "kit") == 0
    parties.printed = parties.run(
        "numpy",
        (site, "join", server / "study-kit.zip", "--site", "B"),
        (site, "enroll", "--site", "B", "--encrypt"),
        (site, "prepare", "--source", parties.source),
        (site, "partition", "--site", "B"),
        (site, "client-encode", "--site", "B"),
        (site, "inspect", "outbox/B/B-train-00000.h5", "--html", "Bericht ę.html"),
        (site, "ship", "--site", "B", "--to", disk),
        (site, "withdraw", "--site", "B", "--patient", PATIENT),
        (site, "client-encode", "--site", "B", "--for", "prediction", "--source", parties.cases),
        (site, "ship", "--site", "B", "--to", disk),
        (site, "log", "--site", "B"),
        (site, "status"),
    )
    return parties


def test_a_site_needs_neither_posix_nor_torch(parties: Parties) -> None:
    assert {path.name.split("-")[1] for path in parties.disk.glob("B-*.h5.age")} == {
        *("train", "validation", "test", "prediction"),
    }
    assert len(list(parties.disk.glob("*.withdrawal.age"))) == 1


def test_what_the_code_page_lacks_is_escaped(parties: Parties) -> None:
    assert "gesund \\u5065\\u5eb7" in parties.printed
    assert "Kränklich \\u0151" in parties.printed


def test_the_log_names_the_user_whom_the_system_knows(parties: Parties) -> None:
    lines = (parties.site / "sites" / "B" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) >= 8
    assert {json.loads(line)["user"] for line in lines} == {"Łukasz Ångström"}


def test_files_are_those_that_linux_writes(parties: Parties, tmp_path: Path) -> None:
    """Shards, the kit, the public key and all text: byte by byte, whatever the system."""
    site, server = tmp_path / "site", tmp_path / "server"
    shutil.copytree(parties.site, site)
    shutil.copytree(parties.server, server)
    (site / "sites" / "B" / "withdrawn.csv").unlink()
    shards = {path.name: path.read_bytes() for path in (site / "outbox" / "B").glob("B-t*.h5")}
    assert call_main(site, "client-encode", "--site", "B", "--backend", "numpy", "--force") == 0
    assert len(shards) == 2
    for name, content in shards.items():
        assert (site / "outbox" / "B" / name).read_bytes() == content
    assert call_main(site, "enroll", "--site", "B") == 0
    assert (site / "B.pub").read_bytes() == (parties.site / "B.pub").read_bytes()
    kit = (server / "study-kit.zip").read_bytes()
    parties.run("torch", (server, "study", "kit"))
    assert (server / "study-kit.zip").read_bytes() == kit
    text = [path for path in parties.site.rglob("*") if path.suffix in TEXT or path.name == "key"]
    assert len(text) > 10
    assert not [path.name for path in text if b"\r" in path.read_bytes()]


def test_records_are_named_with_slashes(parties: Parties) -> None:
    with (parties.site / "sites" / "B" / "pseudonyms.csv").open(encoding="utf-8") as file:
        records = [row["record"] for row in csv.DictReader(file)]
    assert f"{CLASSES[0]}/Łuk 0/Bild 0 ñ.png" in records


@pytest.mark.slow
def test_growing_and_predictions_with_torch(parties: Parties) -> None:
    """The server too, whose files are of another party."""
    parties.write_table(months=2)
    site, server = parties.site, parties.server
    inbox = server / "server" / "inbox"
    parties.run(
        "torch",
        (site, "prepare", "--source", parties.source),
        (site, "partition", "--site", "B"),
        (site, "client-encode", "--site", "B", "--backend", "torch"),
        (site, "ship", "--site", "B", "--to", inbox),
        (server, "study", "add", site / "B.pub"),
        (server, "queue", "take"),
        (server, "server-train"),
        (server, "predict"),
    )
    assert not list((server / "server" / "rejected").glob("*"))
    (answer,) = (server / "server" / "answers").glob("*.predictions.age")
    parties.run("numpy", (site, "resolve", "--site", "B", answer))
    (table,) = (site / "sites" / "B" / "prediction").glob("B-default-*.csv")
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24
    assert f"{CLASSES[0]}/Žák 24/Bild 0 ñ.png" in {row["record"] for row in rows}
