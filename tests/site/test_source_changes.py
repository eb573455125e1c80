"""A source is recognised by its files, not its path; changes are reported at the site only."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from sltool.site.fingerprint import Fingerprint, fingerprint
from tests.conftest import Sltool
from tests.images import two_classes

SET = ("--set", "dataset.size=8", "model.filters=[1, 4]", "encoding.views=1", "--workers", 1)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return two_classes(tmp_path / "ct", 20, ("non-COVID", "COVID"), side=10)


def first(source: Path) -> Path:
    return min((source / "COVID").iterdir())


def again(sltool: Sltool, source: Path) -> str:
    """What `prepare` prints on stderr if it prepares again; '' if it recognises the source."""
    ran = sltool("prepare", "--source", source).ok()
    if "already prepared" in ran.out:
        return ""
    return ran.err or "anew"


def test_prepare_sees_what_was_added_removed_and_changed(sltool: Sltool, source: Path) -> None:
    sltool("prepare", "covid-ct", "--source", source, *SET).ok()
    assert again(sltool, source) == ""
    shutil.copy(first(source), source / "COVID" / "new patient.png")
    assert "1 file added (COVID/new patient.png); preparing anew" in again(sltool, source)
    assert again(sltool, source) == ""
    (source / "COVID" / "new patient.png").unlink()
    names = sorted(path.name for path in (source / "non-COVID").iterdir())
    for name in names[:5]:
        os.utime(source / "non-COVID" / name, (1, 1))
    content = first(source).read_bytes()
    time.sleep(0.01)
    first(source).write_bytes(content)
    message = again(sltool, source)
    assert "1 file removed (COVID/new patient.png); " in message
    assert f"6 files changed (COVID/{first(source).name}, non-COVID/{names[0]}" in message
    assert ", ...)" in message
    assert again(sltool, source) == ""


def test_a_source_that_was_moved_is_the_same_source(sltool: Sltool, source: Path) -> None:
    sltool("prepare", "covid-ct", "--source", source, *SET).ok()
    moved = source.rename(source.with_name("elsewhere"))
    assert again(sltool, moved) == ""


def test_a_table_is_a_source_too(sltool: Sltool, tmp_path: Path) -> None:
    lines = ["age,sex,TC,HDL,TG,LDL", *(f"{30 + n},1,200,50,{100 + n},120" for n in range(20))]
    table = tmp_path / "lipids.csv"
    table.write_text("\n".join(lines))
    sltool("prepare", "cholesterol", "--source", table).ok()
    assert again(sltool, table) == ""
    table.write_text("\n".join([*lines, "55,2,210,60,90,130"]))
    assert "1 file changed (lipids.csv)" in again(sltool, table)
    # Without --source, it is the bundled patients: another table.
    ran = sltool("prepare", "cholesterol")
    assert "1 file removed (lipids.csv)" in ran.err


def test_partition_detects_the_change(sltool: Sltool, source: Path) -> None:
    sltool("prepare", "covid-ct", "--source", source, *SET).ok()
    sltool("partition", "--ratios", "1").ok()
    os.utime(first(source), (1, 1))
    assert again(sltool, source)
    refused = sltool("partition", "--ratios", "1")
    assert refused.code == 2
    assert "other samples" in refused.err


@pytest.mark.parametrize("inside", [".", "COVID/study"])
def test_a_study_within_its_source_does_not_change_it(
    sltool: Sltool, source: Path, inside: str
) -> None:
    sltool.folder = source / inside
    sltool.folder.mkdir(exist_ok=True)
    sltool("prepare", "covid-ct", "--source", source, *SET).ok()
    for stage in (["partition", "--ratios", "1"], ["client-encode"], ["ship"]):
        sltool(*stage).ok()
    assert again(sltool, source) == ""


def test_no_file_name_leaves_the_site(sltool: Sltool, source: Path) -> None:
    first(source).rename(source / "COVID" / "Erika Mustermann.png")
    sltool("prepare", "covid-ct", "--source", source, *SET).ok()
    for stage in (["partition", "--ratios", "1"], ["client-encode"], ["ship"]):
        sltool(*stage).ok()
    private = {"prepared.h5", "pseudonyms.csv"}
    holders = {path for path in sltool.folder.rglob("*") if path.is_file()}
    named = {path.name for path in holders if b"Mustermann" in path.read_bytes()}
    assert named <= private
    assert "prepared.h5" in named
    for name in named:
        (path,) = sltool.folder.rglob(name)
        assert path.stat().st_mode & 0o077 == 0, name


def test_links_and_unreadable_files(tmp_path: Path) -> None:
    data, root = tmp_path / "data", tmp_path / "source"
    (data / "deep").mkdir(parents=True)
    root.mkdir()
    (data / "deep" / "a.png").write_bytes(b"1")
    (root / "linked").symlink_to(data)
    (data / "back").symlink_to(root)
    (root / "gone.png").symlink_to(tmp_path / "nowhere")
    (root / ".hidden").write_bytes(b"1")
    found = fingerprint(root)
    assert set(found.files) == {"linked/deep/a.png", "gone.png"}
    assert found.files["gone.png"] == (-1, 0)
    (data / "deep" / "a.png").write_bytes(b"22")
    assert fingerprint(root).changes_since(found) == "1 file changed (linked/deep/a.png)"
    assert found.changes_since(Fingerprint({})) == "2 files added (gone.png, linked/deep/a.png)"


def test_a_drive_that_numbers_no_files(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As WebDAV on Windows: every folder has the number 0, and each is read all the same."""
    expected = fingerprint(source)
    stat = Path.stat

    def without_number(path: Path, **options: bool) -> os.stat_result:
        found = list(stat(path, **options))
        found[1] = 0
        return os.stat_result(found)

    monkeypatch.setattr(Path, "stat", without_number)
    assert fingerprint(source) == expected
    assert len(expected.files) == 40


def test_many_files_cost_little(tmp_path: Path) -> None:
    """Only each file's directory entry is read: well below 0.1 ms per file."""
    for image in range(4_000):
        folder = tmp_path / f"patient{image // 20:05d}"
        if image % 20 == 0:
            folder.mkdir()
        os.close(os.open(folder / f"image{image % 20}.png", os.O_CREAT | os.O_WRONLY))
    started = time.process_time()
    found = fingerprint(tmp_path)
    assert len(found.files) == 4_000
    assert len(found.digest) == 64
    assert time.process_time() - started < 0.4
