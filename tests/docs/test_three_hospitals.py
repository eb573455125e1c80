"""The tutorial of three hospitals, typed as it says, with a real bucket and a real SFTP server."""

from __future__ import annotations

import csv
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, call_main
from tests.docs.console import Command, code_blocks, is_as_printed, session
from tests.storage_servers import s3_server, sftp_server

PAGE = ROOT / "docs" / "tutorial-three-hospitals.md"
PARTIES = ("server", "hospital-a", "hospital-b", "hospital-c")
# All that two parties have in common.
POST = ("../mail/", "../usb")


def run(command: Command, folder: Path, capfd: pytest.CaptureFixture[str]) -> str:
    """What the command prints on stdout, in the folder of the party that types it."""
    words = [path for word in shlex.split(command.text) for path in _expanded(word, folder)]
    if words[0] == "cp":
        shutil.copy(folder / words[1], folder / words[2])
        return ""
    assert words[0] == "sltool"
    capfd.readouterr()
    code = call_main(folder, *words[1:])
    captured = capfd.readouterr()
    assert code == 0, f"{command}\n{captured.out}\n{captured.err}"
    return captured.out


def _expanded(word: str, folder: Path) -> list[str]:
    """What a shell makes of a word."""
    if "*" not in word:
        return [word]
    return [os.path.relpath(path, folder) for path in sorted(folder.glob(word))]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in (*PARTIES, "mail", "usb"):
        (tmp_path / name).mkdir()
    (tables,) = code_blocks(PAGE, "python")
    subprocess.run([sys.executable, "-c", tables], cwd=tmp_path, check=True)
    with (
        s3_server(monkeypatch, "study-inbox"),
        sftp_server(monkeypatch, tmp_path / "ssh", "drop-box"),
    ):
        for command in session(PAGE):
            printed = run(command, tmp_path / command.who, capfd)
            assert is_as_printed(command, printed), f"{command.text} printed\n{printed}"
    check_the_predictions(tmp_path / "hospital-c")
    check_that_no_patient_has_left(tmp_path)


def check_the_predictions(hospital: Path) -> None:
    (table,) = hospital.glob("sites/C/prediction/C-default-*.csv")
    with table.open(newline="") as file:
        predicted = {
            row["patient"]: float(row["prediction (mg/dL)"]) for row in csv.DictReader(file)
        }
    with (hospital / "new-patients.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            friedewald = float(row["TC"]) - float(row["HDL"]) - float(row["TG"]) / 5
            assert predicted[row["patient"]] == pytest.approx(friedewald, abs=10)


def check_that_no_patient_has_left(root: Path) -> None:
    """Neither the post nor the server has a patient's id or a private file of a hospital."""
    for folder in ("mail", "usb", "server", "ssh"):
        for path in (path for path in (root / folder).rglob("*") if path.is_file()):
            assert path.name not in {"private.h5", "pseudonyms.csv", "patients.csv"}
            if path.suffix in {".json", ".csv", ".yaml", ".txt", ".pub", ".predictions"}:
                assert not re.search(rb"\bP\d{3}\b", path.read_bytes()), path
    assert list((root / "usb").glob("*.predictions"))
    shipped = [*(root / "usb").glob("*.h5*"), *(root / "ssh" / "inside").rglob("*.h5*")]
    assert shipped
    assert all(path.suffix == ".age" for path in shipped)


def test_the_parties_share_nothing() -> None:
    commands = session(PAGE)
    assert {command.who for command in commands} == set(PARTIES)
    for command in commands:
        for word in shlex.split(command.text):
            assert not word.startswith("..") or word.startswith(POST), command.text
            assert not word.startswith(("/", "~"))


def test_another_output_is_seen() -> None:
    command = Command("", "sltool x", ["3 files, key 0123456789ab", "...", "end"])
    assert is_as_printed(command, "4 files, key ba9876543210\nanything\nend\n")
    assert not is_as_printed(command, "4 shards, key ba9876543210\nend\n")
    assert not is_as_printed(command, "4 files, key ba9876543210\nend\nmore\n")
