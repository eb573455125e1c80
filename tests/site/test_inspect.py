"""`sltool inspect`: what somebody who knows nothing of HDF5 learns of a shard."""

from __future__ import annotations

import os
import pty
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from sltool.site.audit import attacker
from tests.conftest import ROOT, Sltool, call_main
from tests.images import two_classes

SHARD = "outbox/B/B-train-00000.h5"
CHECKS = ("signature", "content", "study", "layout")

SMALL = ["--set", "dataset.size=32"]


@pytest.fixture(scope="module")
def image_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspected") / "study"
    folder.mkdir()
    two_classes(folder.parent / "slices", 30, ("non-COVID", "COVID"))
    for stage in (
        ["prepare", "covid-ct", "--recipe", "paper", "--source", "../slices", *SMALL],
        ["partition"],
        ["client-encode"],
    ):
        assert call_main(folder, *stage, "--quiet") == 0
    return folder


@pytest.fixture
def images(image_study: Path, sltool: Sltool) -> Sltool:
    shutil.copytree(image_study, sltool.folder, dirs_exist_ok=True)
    return sltool


def checks(sltool: Sltool, *args: object) -> dict[str, bool | None]:
    return {
        check["name"]: check["passed"]
        for check in sltool("inspect", *args, "--json").json["checks"]
    }


def test_before_it_leaves_the_hospital(images: Sltool) -> None:
    shown = images("inspect", SHARD, "--png", "b.png", "--html", "b.html").ok()
    for text in (
        "feature maps of 9 train samples of site B",
        "yes: every byte is as it was signed",
        "of 9 patients",
        "non-COVID 5 (56%), COVID 4 (44%)",
        "1 x 16 x 16 numbers (float16)",
        "not audited yet",
        "original channel 1",
        "It does not contain",
        "pseudonymised personal data",
    ):
        assert text in " ".join(shown.out.split()), text
    assert any(shade in shown.out for shade in "░▒▓█")
    assert "b.png shows patients" in shown.err
    for name in ("b.png", "b.html"):
        assert stat.S_IMODE((images.folder / name).stat().st_mode) == 0o600
    with Image.open(images.folder / "b.png") as picture:
        assert picture.size == (2 * 96 + 3 * 6, 8 * 96 + 9 * 6)
    page = (images.folder / "b.html").read_text()
    assert page.count("data:image/png;base64,") == 2 * 8
    assert "This page shows patients" in page


def test_as_json(images: Sltool) -> None:
    found = images("inspect", SHARD, "--json").ok().json
    assert found["samples"] == found["patients"] == 9
    assert found["labels"] == {"non-COVID": 5, "COVID": 4}
    assert found["originals"] is True
    assert found["manifest"]["place"]["site"] == "B"
    assert found["features"]["low"] < found["features"]["high"]
    assert checks(images, SHARD) == dict.fromkeys(CHECKS, True)


def test_a_table_of_values(trained: Sltool) -> None:
    found = trained("inspect", "server/accepted/C-test-00000.h5", "--json").ok().json
    assert set(found["labels"]) == {"mean", "sd", "lowest", "highest"}
    assert found["originals"] is True
    assert "original" in trained("inspect", "server/accepted/C-test-00000.h5").ok().out


def test_without_the_hospitals_data_there_are_no_originals(images: Sltool) -> None:
    shutil.rmtree(images.folder / "sites")
    ran = images("inspect", SHARD, "--png", "b.png").ok()
    assert "original " not in ran.out
    assert "shows patients" not in ran.err
    assert "stays at the site" in ran.out


def test_where_there_is_no_study(images: Sltool, tmp_path: Path) -> None:
    path = shutil.copy(images.folder / SHARD, tmp_path / "found.h5")
    (tmp_path / "empty").mkdir()
    found = images("inspect", path, "--study", tmp_path / "empty", "--json").ok().json
    assert [check["passed"] for check in found["checks"]] == [None, True, None, True]
    assert found["labels"] == {"class 0": 5, "class 1": 4}
    assert list((tmp_path / "empty").iterdir()) == []


@pytest.mark.parametrize(
    ("place", "failing"),
    [(0.9, {"content", "layout"}), (700, {"signature"})],
    ids=["data", "manifest"],
)
def test_a_changed_byte(images: Sltool, place: float, failing: set[str]) -> None:
    path = images.folder / SHARD
    raw = bytearray(path.read_bytes())
    if place < 1:
        raw[int(place * len(raw))] ^= 1
    else:
        old = b'"samples":9'
        assert raw.count(old) == 1
        raw = raw.replace(old, b'"samples":8')
        failing = {"signature", "layout"}
    path.write_bytes(raw)
    ran = images("inspect", SHARD)
    assert ran.code in (4, 5)
    assert "NO: " in ran.out
    assert "Traceback" not in ran.err
    assert failing & {name for name, passed in checks(images, SHARD).items() if passed is False}


def test_a_key_that_is_not_listed(images: Sltool) -> None:
    study = images.folder / "study.yaml"
    text = study.read_text()
    head, line, tail = text.partition("\n  B:")
    study.write_text(head + line.replace("B", "X") + tail)
    ran = images("inspect", SHARD)
    assert ran.code == 5
    assert "not enrolled for site B" in ran.out


def test_another_encoding(images: Sltool) -> None:
    study = images.folder / "study.yaml"
    study.write_text(study.read_text().replace("noise: 0.0", "noise: 0.5"))
    assert images("inspect", SHARD).code == 6
    assert checks(images, SHARD)["study"] is False


@pytest.mark.parametrize("content", [b"", b"nonsense" * 1000])
def test_what_is_not_a_shard(images: Sltool, content: bytes) -> None:
    (images.folder / "x.h5").write_bytes(content)
    ran = images("inspect", "x.h5")
    assert ran.code == 4
    assert "does not begin like a shard" in ran.err


def test_encrypted(images: Sltool, tmp_path: Path) -> None:
    pytest.importorskip("pyrage", reason="needs sltool[age]")
    recipient = images("server-keys", "--json").ok().json["recipient"]
    study = images.folder / "study.yaml"
    study.write_text(study.read_text().replace("recipient: null", f"recipient: {recipient}"))
    images("ship", "--site", "B", "--to", tmp_path / "disk").ok()
    sent = tmp_path / "disk" / "B-train-00000.h5.age"
    before = set(images.folder.rglob("*"))
    assert images("inspect", sent, "--json").ok().json["samples"] == 9
    assert set(images.folder.rglob("*")) == before
    identity = (images.folder / "server" / "identity").rename(tmp_path / "identity")
    ran = images("inspect", sent)
    assert ran.code == 2
    assert "only the server can read it" in ran.err
    assert "--identity" in ran.err
    images("inspect", sent, "--identity", identity).ok()


def test_the_audit_of_these_bytes(sltool: Sltool, monkeypatch: pytest.MonkeyPatch) -> None:
    small = attacker.Budget("quick", 200, 40, steps=8, descent=8, optimised=4, rows=1000)
    monkeypatch.setitem(attacker.BUDGETS, "quick", small)
    sltool("prepare", "cholesterol").ok()
    sltool("partition", "--site", "B").ok()
    sltool("client-encode").ok()
    sltool("audit").ok()
    assert "strongest attacker" in sltool("inspect", SHARD, "--json").ok().json["audit"]
    sltool("partition", "--site", "B", "--force").ok()
    sltool("client-encode").ok()
    found = sltool("inspect", SHARD, "--json").ok().json
    assert "of another file" in found["audit"]


def terminal(folder: Path, **environment: str) -> str:
    """What `inspect` prints to a terminal."""
    master, slave = pty.openpty()
    done = subprocess.Popen(
        [sys.executable, "-m", "sltool", "inspect", SHARD],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", **environment},
        stdout=slave,
        stderr=subprocess.DEVNULL,
    )
    os.close(slave)
    shown = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:
            break
        if not part:
            break
        shown += part
    os.close(master)
    assert done.wait() == 0
    return shown.decode()


def test_greys_in_a_terminal_and_none_where_colour_is_not_wanted(images: Sltool) -> None:
    assert "\x1b[38;5;" in terminal(images.folder, NO_COLOR="")
    assert "\x1b" not in terminal(images.folder, NO_COLOR="1")


def test_forty_columns(images: Sltool) -> None:
    shown = images.run("inspect", SHARD, COLUMNS="40", PYTHONIOENCODING="utf-8").ok().out
    assert max(map(len, shown.splitlines())) <= 40


def test_a_terminal_without_block_characters(images: Sltool) -> None:
    shown = images.run("inspect", SHARD, PYTHONIOENCODING="ascii").ok().out
    assert shown.isascii()
    assert "channel 1" in shown
