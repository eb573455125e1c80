"""The wheel and the sdist: their content, the same bytes each time, and that the wheel installs."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from sltool.version import __version__
from tests.conftest import ROOT, project_files

# Written by the build backend itself.
ADDED = {"PKG-INFO"}


def checkout(folder: Path) -> Path:
    """A copy of the project's files."""
    for name in project_files():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


def build(folder: Path, **environment: str) -> dict[str, Path]:
    """`make build`'s command in this folder, without the network; the archives by suffix."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist"]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {path.suffix: path for path in (folder / "dist").iterdir()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return build(checkout(tmp_path_factory.mktemp("checkout")))


def test_another_checkout_gives_the_same_bytes_and_packs_no_data(
    built: dict[str, Path], tmp_path: Path
) -> None:
    other = checkout(tmp_path / "elsewhere")
    for path in other.rglob("*"):
        os.utime(path, (10**9, 10**9))
        if path.is_file():
            path.chmod(path.stat().st_mode & stat.S_IRWXU)
    left_over = ("prepared.h5", "sites/A/key", "sltool/private.h5", "examples/plugin/people.csv")
    for name in (*left_over, "server/runs/all/predictions.csv", "sltool/site/pseudonyms.csv"):
        (other / name).parent.mkdir(parents=True, exist_ok=True)
        (other / name).write_text("a patient\n")
    again = build(other, TZ="Asia/Tokyo", PYTHONHASHSEED="7")
    assert again.keys() == built.keys() == {".whl", ".gz"}
    for suffix, path in built.items():
        assert again[suffix].name == path.name
        assert again[suffix].read_bytes() == path.read_bytes(), path.name


def test_the_wheel_holds_the_package_and_nothing_else(built: dict[str, Path]) -> None:
    with zipfile.ZipFile(built[".whl"]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        assert b"sltool = sltool.__main__:main" in wheel.read(
            f"sltool-{__version__}.dist-info/entry_points.txt"
        )
    assert names == {name for name in project_files() if name.startswith("sltool/")}
    assert {"sltool/py.typed", "sltool/templates/page.html"} <= names
    assert {Path(name).suffix for name in names} == {".py", ".typed", ".html"}


def test_the_sdist_holds_all_that_the_tests_need(built: dict[str, Path]) -> None:
    with tarfile.open(built[".gz"]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert names - ADDED == set(project_files())


def test_the_wheel_installs_and_runs_without_the_checkout(
    built: dict[str, Path], tmp_path: Path
) -> None:
    """Its dependencies are those of this environment: `make install-check` installs them, too."""
    installed = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check"]
    options = ["--quiet", "--no-deps", "--no-index", "--target", installed]
    subprocess.run([*pip, "install", *options, built[".whl"]], check=True)
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    ran = {
        option: subprocess.run(
            [installed / "bin" / "sltool", option],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for option in ("--help", "--version")
    }
    assert "server-train" in ran["--help"]
    assert ran["--version"] == f"sltool {__version__}\n"
    where = [sys.executable, "-c", "import sltool; print(sltool.__file__)"]
    found = subprocess.run(
        where, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert Path(found.stdout.strip()).is_relative_to(installed)
