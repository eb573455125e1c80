"""`queue take`: what its exit code says, and what it costs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sltool.study.layout import StudyFolder
from tests.conftest import Sltool
from tests.shard.forge import Forge

HEAVY = ("torch", "pandas", "sklearn", "scipy", "h5py")


@pytest.fixture
def inbox(trained: Sltool) -> Path:
    folder = trained.folder / "server" / "inbox"
    folder.mkdir(exist_ok=True)
    Forge(StudyFolder(trained.folder)).shard(folder / "good.h5")
    return folder


@pytest.mark.parametrize("option", [[], ["--json"], ["--quiet"]])
def test_exit_code_is_4_if_a_file_was_refused_and_0_otherwise(
    trained: Sltool, inbox: Path, option: list[str]
) -> None:
    (inbox / "empty.h5").touch()
    ran = trained("queue", "take", *option)
    assert ran.code == 4
    assert not ran.err.startswith("error")
    if option == ["--json"]:
        assert ran.json["accepted"] == ["A-train-00005.h5"]
    assert trained("queue", "take", *option).code == 0


def test_exit_code_is_4_if_a_shard_was_quarantined(trained: Sltool, inbox: Path) -> None:
    forge = Forge(StudyFolder(trained.folder))
    columns = forge.columns(seed=1)
    columns["features"][:] = columns["features"][0]
    forge.shard(inbox / "same.h5", sequence=7, columns=columns)
    assert trained("queue", "take").code == 4
    assert trained("queue", "take").code == 0


@pytest.mark.parametrize(
    "command", [["queue", "take"], ["queue", "verify", "server/inbox/good.h5"], ["status"]]
)
def test_neither_torch_nor_any_other_big_library_is_imported(
    trained: Sltool, inbox: Path, command: list[str]
) -> None:
    code = (
        "import json, sys\n"
        "from tests.conftest import call_main\n"
        "from pathlib import Path\n"
        "code = call_main(Path.cwd(), *sys.argv[1:])\n"
        f"print(json.dumps([code, [name for name in {HEAVY!r} if name in sys.modules]]))\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, *command],
        cwd=trained.folder,
        env={"PYTHONPATH": str(root), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert json.loads(done.stdout.splitlines()[-1]) == [0, []]
