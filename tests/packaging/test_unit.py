"""The systemd unit: verified, hardened, and in line with the program's options and exit codes."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sltool import errors
from tests.conftest import ROOT, Sltool

UNIT = ROOT / "packaging" / "sltool-server.service"
# A later start may succeed: a bug that depends on the moment, and a full disk.
RESTARTED = {1, 3}


def settings() -> dict[str, str]:
    lines = UNIT.read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def exit_codes() -> set[int]:
    """Those of all errors that sltool raises on purpose."""
    return {
        kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.SltoolError)
    }


def test_it_starts_a_command_that_exists(sltool: Sltool) -> None:
    program, *command = settings()["ExecStart"].split()
    assert Path(program).name == "sltool"
    usage = sltool(command[0], "--help").ok().out
    assert all(option in usage for option in command[1:])


def test_what_needs_a_person_is_not_started_again() -> None:
    prevented = {int(code) for code in settings()["RestartPreventExitStatus"].split()}
    assert prevented == exit_codes() - RESTARTED
    assert settings()["Restart"] == "on-failure"
    named = re.findall(r"(\d) [a-z]", " ".join(re.findall(r"^# (.*)", UNIT.read_text(), re.M)))
    assert {int(code) for code in named} == prevented


def test_its_files_are_private_and_its_account_is_not_root() -> None:
    assert settings()["UMask"] == "0077"
    assert settings()["StateDirectoryMode"] == "0700"
    assert settings()["User"] not in ("", "root")


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with the path of this environment's `sltool`."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze on this machine")
    program = settings()["ExecStart"].split()[0]
    copy = tmp_path / UNIT.name
    here = str(Path(sys.executable).with_name("sltool"))
    copy.write_text(UNIT.read_text(encoding="utf-8").replace(program, here))
    return copy


def test_systemd_accepts_it(unit: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_systemd_calls_its_exposure_low(unit: Path) -> None:
    """10 is a service without any protection; below 2 is what systemd calls safe."""
    subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", unit],
        capture_output=True,
        check=True,
    )
