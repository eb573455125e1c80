"""Names that become files and folders: none leads out of its folder, whoever gives it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sltool.errors import UsageError
from sltool.names import check_name, check_site_name
from tests.conftest import Sltool

EVIL = [
    *("", ".", "..", "../evil", "../../evil", "a/b", "a/../b", "/tmp/evil", "a\\b", "C:evil"),
    *("a\nb", "a\x1b[31m", "a\0b", "a\x7f", " a", "a ", "a.", "-a", ".a", "a*", "a:b", "~", "ä"),
    *("CON", "nul", "aux.txt", "COM1", "lpt9.x", "a" * 65, "a" * 5000),
]
# What the operating system accepts as an argument.
TYPED = [name for name in EVIL if "\0" not in name]


def everything(folder: Path) -> set[Path]:
    """All files in the test's folder and beside it."""
    return set(folder.parent.rglob("*"))


@pytest.mark.parametrize("name", EVIL)
def test_the_rule(name: str) -> None:
    for check in (lambda: check_name("run", name), lambda: check_site_name(name)):
        with pytest.raises(UsageError) as raised:
            check()
        assert "cannot be called" in str(raised.value)
        assert str(raised.value).isprintable() or "\n" in str(raised.value)
        assert not set(str(raised.value)) & set("\x1b\0\x7f")


@pytest.mark.parametrize("name", ["a", "B-2", "cut-1", "v1.2_x", "a" * 64, "0"])
def test_names_that_fit(name: str) -> None:
    assert check_name("run", name) == name


@pytest.mark.parametrize("name", TYPED)
def test_runs(trained: Sltool, name: str) -> None:
    before = everything(trained.folder)
    for command in (
        ["server-train", "--run"],
        ["server-train", "--resume", "never", "--run"],
        ["server-train", "--seeds", "2", "--run"],
        ["evaluate", "--run"],
        ["compare", "--"],
        ["report", "--"],
    ):
        ran = trained(*command, name)
        assert ran.code == 2, (command, ran.err)
        assert "cannot be called" in ran.err, command
        assert "Traceback" not in ran.err
    assert everything(trained.folder) == before


@pytest.mark.parametrize("name", [name for name in TYPED if name])
def test_sites(trained: Sltool, name: str) -> None:
    before = everything(trained.folder)
    for command in (
        ["enroll", "--site"],
        ["join", "study.yaml", "--site"],
        ["partition", "--force", "--site"],
        ["client-encode", "--site"],
        ["ship", "--site"],
        ["withdraw", "--patient", "1", "--site"],
        ["server-train", "--sites"],
        ["evaluate", "--sites"],
        [*("reproduce", "cholesterol", "--seeds", "1", "--out", "out"), "--arms"],
    ):
        given = f"single:{name}" if command[0] == "reproduce" else name
        ran = trained(*command, given)
        assert ran.code == 2, (command, ran.err)
        assert "Traceback" not in ran.err
    assert everything(trained.folder) == before


@pytest.mark.parametrize("name", ["../evil", "a/b", "CON", "", "a" * 33])
def test_a_site_in_study_yaml(trained: Sltool, name: str) -> None:
    study = trained.folder / "study.yaml"
    text = study.read_text()
    head, line, tail = text.partition("\n  A:")
    assert line, "where site A stands"
    study.write_text(f"{head}\n  {json.dumps(name)}:{tail}")
    ran = trained("ship")
    assert ran.code == 2
    assert "sites" in ran.err


def test_sites_that_differ_in_case_alone(trained: Sltool) -> None:
    study = trained.folder / "study.yaml"
    study.write_text(study.read_text().replace("\n  B:", "\n  a:"))
    ran = trained("ship")
    assert ran.code == 2
    assert "A and a" in ran.err


@pytest.mark.parametrize(
    "command",
    [
        ["partition", "--force", "--site"],
        ["enroll", "--site"],
        ["server-train", "--run"],
        ["evaluate", "--run"],
    ],
)
def test_a_name_that_differs_in_case_alone_from_one_here(
    trained: Sltool, command: list[str]
) -> None:
    """On Windows and macOS it is the same folder, whose files would be replaced."""
    before = everything(trained.folder)
    ran = trained(*command, "a" if "--site" in command else "Default")
    assert ran.code == 2
    assert "cannot be told from" in ran.err
    assert everything(trained.folder) == before


@pytest.mark.parametrize("name", ["../../key", "/etc/passwd", "A-train-00000.h5/../x"])
def test_a_record_that_names_a_file_elsewhere(trained: Sltool, name: str) -> None:
    path = trained.folder / "sites" / "A" / "encoded.json"
    record = json.loads(path.read_text())
    record["shards"].append(name)
    path.write_text(json.dumps(record))
    ran = trained("ship", "--site", "A", "--to", trained.folder / "disk")
    assert ran.code == 3
    assert "shards.3" in ran.err
    assert not (trained.folder / "disk").exists()


def test_a_run_that_was_renamed_by_hand(trained: Sltool) -> None:
    runs = trained.folder / "server" / "runs"
    shutil.copytree(runs / "default", runs / "the best")
    ran = trained("status")
    assert ran.code == 2
    assert "'the best'" in ran.err


PLUGIN = """
from sltool.registry import {kind}
@{kind}.register("../evil")
class Evil:
    pass
"""


@pytest.mark.parametrize("kind", ["datasets", "models"])
def test_names_of_plugins(sltool: Sltool, tmp_path: Path, kind: str) -> None:
    plugin = tmp_path / "plugin.py"
    plugin.write_text(PLUGIN.format(kind=kind))
    ran = sltool("list", kind, "--plugins-dir", plugin)
    assert ran.code == 2
    assert "cannot be called '../evil'" in ran.err


def test_cells_of_a_sweep_never_share_a_folder(sltool: Sltool) -> None:
    for sweep, message in (
        ("dataset.x=a/b,a-b", "the same folder"),
        ("dataset.x=" + "a" * 300, "200 bytes"),
    ):
        ran = sltool("reproduce", "cholesterol", "--sweep", sweep)
        assert ran.code == 2
        assert message in ran.err
    assert not (sltool.folder / "reproduction").exists()
