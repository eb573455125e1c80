"""The examples: each script runs, prints what its README says, and leaves its study.yaml."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import runpy
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from sltool.coordinator.create import study_text
from sltool.site.audit import attacker
from sltool.study.layout import StudyFolder
from sltool.study.study_file import load_study
from tests.conftest import ROOT, call_main
from tests.docs.console import is_as_printed, session

EXAMPLES = ROOT / "examples"
NAMES = sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir())
# What the scripts find as `sltool`: it has this process run the command, which saves the start.
CLIENT = """\
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect(sys.argv[1])
with server.makefile("rw", encoding="utf-8") as stream:
    request = [os.getcwd(), sys.argv[2:], os.environ.get("SLTOOL_PLUGINS", "")]
    stream.write(json.dumps(request) + "\\n")
    stream.flush()
    code, out, err = json.loads(stream.readline())
sys.stdout.write(out)
sys.stderr.write(err)
sys.exit(code)
"""


@dataclass(frozen=True)
class Example:
    """An example that has run."""

    name: str
    folder: Path
    out: str
    err: str

    def printed(self, command: str) -> str:
        """What the last of the commands that begin so printed to stdout."""
        return [out for line, out in blocks(self.out) if line.startswith(command)][-1]

    def figure(self, metric: str) -> float:
        """The last table's figure of all test samples."""
        return float(re.findall(rf"^{metric} +([\d.]+)", self.out, re.MULTILINE)[-1])


def blocks(out: str) -> list[tuple[str, str]]:
    """The (command, output) pairs of what a script printed."""
    parts = re.split(r"^\$ (.*)\n", out, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


class Runner:
    """Runs an example's script, whose `sltool` commands this process carries out."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._root, self._monkeypatch = tmp_path, monkeypatch
        self._programs = tmp_path / "programs"
        self._programs.mkdir()
        (self._programs / "client.py").write_text(CLIENT, encoding="utf-8")
        self._address = os.path.relpath(tmp_path / "socket")
        client = f'"{self._programs / "client.py"}" "{tmp_path / "socket"}"'
        self._program("sltool", f'"{sys.executable}" -I -S {client} "$@"')
        self._program("python", f'"{sys.executable}" "$@"')

    def _program(self, name: str, command: str) -> None:
        path = self._programs / name
        path.write_text(f"#!/bin/sh\nexec {command}\n", encoding="utf-8")
        path.chmod(0o755)

    def __call__(self, name: str, script: str = "run.sh") -> Example:
        folder = self._root / "example"
        out, err = self._root / "out", self._root / "err"
        path = f"{self._programs}{os.pathsep}{os.environ['PATH']}"
        with (
            socket.socket(socket.AF_UNIX) as server,
            out.open("w") as stdout,
            err.open("w") as stderr,
        ):
            server.bind(self._address)
            server.listen()
            server.settimeout(0.02)
            process = subprocess.Popen(
                ["sh", EXAMPLES / name / script, folder],
                env={**os.environ, "PATH": path},
                stdout=stdout,
                stderr=stderr,
            )
            while process.poll() is None:
                with contextlib.suppress(TimeoutError):
                    self._serve(server.accept()[0])
        assert process.returncode == 0, out.read_text() + err.read_text()
        return Example(name, folder, out.read_text(), err.read_text())

    def _serve(self, client: socket.socket) -> None:
        client.settimeout(None)
        with client, client.makefile("rw", encoding="utf-8") as stream:
            folder, arguments, plugins = json.loads(stream.readline())
            self._monkeypatch.setenv("SLTOOL_PLUGINS", plugins)
            out, err = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = call_main(Path(folder), *arguments)
            stream.write(json.dumps([code, out.getvalue(), err.getvalue()]) + "\n")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    return Runner(tmp_path, monkeypatch)


def agreement(study_file: Path, **changed: object) -> Any:
    """Every key of a study.yaml and its value, but what each run has of its own."""
    study = load_study(StudyFolder(study_file.parent))
    recipe = study.recipe.model_copy(update={"samples": None})
    own = {"id": "0" * 32, "sites": {}, "recipe": recipe}
    return yaml.safe_load(study_text(study.model_copy(update={**own, **changed})))


def assert_left_its_study(example: Example, study: str = "study.yaml", **changed: object) -> None:
    """The script used, or wrote, the study.yaml that is beside it."""
    beside = agreement(EXAMPLES / example.name / "study.yaml", **changed)
    assert agreement(example.folder / study, **changed) == beside


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_a_readme_a_study_and_a_script(name: str) -> None:
    folder = EXAMPLES / name
    scripts = [path.name for path in folder.glob("run.*")]
    assert scripts in (["run.sh"], ["run.py"])
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert f"examples/{name}/{scripts[0]}" in readme
    assert 5 <= len(readme.splitlines()) <= 18
    assert (folder / "study.yaml").is_file()
    assert f"({name}/README.md)" in (EXAMPLES / "README.md").read_text(encoding="utf-8")


def test_no_study_has_anothers_id() -> None:
    ids = [load_study(StudyFolder(EXAMPLES / name)).id for name in NAMES]
    assert len({*ids}) == len(ids)


@pytest.mark.slow
def test_cholesterol_is_the_readmes_session(run: Runner) -> None:
    example = run("cholesterol")
    printed = dict(blocks(example.out))
    for command in session(ROOT / "README.md"):
        assert is_as_printed(command, printed[command.text].rstrip("\n") + "\n"), command.text
    smape = re.findall(r"^smape +([\d.]+)", example.out, re.MULTILINE)
    assert float(smape[0]) < 0.5 * float(smape[1])
    assert_left_its_study(example)


@pytest.mark.slow
def test_images_from_folders(run: Runner) -> None:
    example = run("images-from-folders")
    assert "classes: normal = normal; sickle = sickle" in example.err
    shown = example.printed("sltool inspect")
    assert "It does not contain" in shown
    assert "original" in shown
    assert float(re.findall(r"^all \(16 samples\) +([\d.]+)", example.out, re.MULTILINE)[0]) > 0.6
    assert_left_its_study(example)


def test_table_from_csv(run: Runner) -> None:
    example = run("table-from-csv")
    assert "'ja' is the positive class" in example.err
    assert "Kreatinin" in example.err.partition("missing values are filled in:")[2][:20]
    assert re.findall(r"^(\w+) +\d+", example.printed("sltool partition"), re.MULTILINE) == [
        "Nord",
        "Sued",
        "West",
    ]
    assert "sensitivity=0.9" in example.printed("sltool evaluate")
    assert "brought in line" not in example.err
    assert_left_its_study(example)


@pytest.mark.slow
def test_three_hospitals(run: Runner) -> None:
    example = run("three-hospitals")
    assert len(re.findall(r"^\$ sltool join study-kit.zip --site", example.out, re.MULTILINE)) == 3
    assert "accepted of A B C" in example.printed("sltool status")
    assert float(re.findall(r"^all \(56 samples\) +([\d.]+)", example.out, re.MULTILINE)[0]) > 0.75
    keys = {path.relative_to(example.folder).parts[0] for path in example.folder.rglob("key")}
    assert keys == {"coordinator", "A", "B", "C"}
    assert not list((example.folder / "server").rglob("private.h5"))
    assert (example.folder / "C" / "columns.json").is_file()
    assert_left_its_study(example, "server/study.yaml")


@pytest.mark.slow
def test_monthly_additions(run: Runner) -> None:
    example = run("monthly-additions")
    added = re.findall(r"site B: (\d+) (?:new )?samples in 3 shards", example.out)
    assert added == ["60", "75", "75"]
    # The site's secret draw may have put P007 into the test samples, which no run trains on.
    assert re.search(r"runs that saw the rows: month-1 month-2|no run saw the rows", example.err)
    with (example.folder / "hospital" / "sites" / "B" / "pseudonyms.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    again = [row for row in rows if [r["patient"] for r in rows].count(row["patient"]) > 1]
    assert len({row["patient"] for row in again}) >= 15
    assert len({(row["patient"], row["group"]) for row in rows}) == len(
        {r["patient"] for r in rows}
    )
    assert "withdrew" in example.printed("sltool log")
    assert_left_its_study(example, "server/study.yaml")


@pytest.mark.slow
def test_private_layer(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    small = attacker.Budget("quick", 300, 60, steps=40, descent=16, optimised=4, rows=5_000)
    monkeypatch.setitem(attacker.BUDGETS, "quick", small)
    example = run("private-layer")
    refusals = re.findall(r"site B may not ship: (.*)", example.err)
    assert len(refusals) == 2
    assert refusals[0] == "the shards have not been audited"
    assert re.match(r"leak is .* more than privacy.max_leak: 0.6", refusals[1])
    assert "3 shards" in example.printed("sltool ship")
    fitted = load_study(StudyFolder(example.folder))
    assert fitted.model.code is not None
    assert_left_its_study(example, model=fitted.model, encoding=fitted.encoding)


def test_plugin(run: Runner) -> None:
    example = run("plugin")
    assert re.search(r"^digits +\S+digits.py", example.printed("sltool list"), re.MULTILINE)
    assert example.figure("top2") > 100 * example.figure("accuracy") > 30
    assert_left_its_study(example)


def test_notebook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = runpy.run_path(str(EXAMPLES / "notebook" / "run.py"))
    assert found["run"].evaluate(["smape"]).loc["all", "smape"] < 5
    out = capsys.readouterr().out
    assert "442 samples" in out
    assert_left_its_study(Example("notebook", Path(found["study"].path), out, ""))


@pytest.mark.slow
def test_reproduce(run: Runner) -> None:
    example = run("reproduce")
    assert "note: seed 1: friedewald\n" in example.err
    arms = re.findall(r"^([\w:]+) +\S+ ± ", example.out, re.MULTILINE)
    assert arms == ["multi", "single:C", "multi", "single:C", "friedewald"]
    assert (example.folder / "results" / "report.html").is_file()
    assert_left_its_study(example, "results/cells/base/seed-0/study/study.yaml")


def test_the_papers_comparisons_are_commands_of_today(tmp_path: Path) -> None:
    """They take hours: here every command line is parsed, with the program's own parser."""
    from sltool.cli.main import app

    recorder = tmp_path / "sltool"
    recorder.write_text('#!/bin/sh\nfor word; do echo "$word"; done >> said\necho >> said\n')
    recorder.chmod(0o755)
    subprocess.run(
        ["sh", EXAMPLES / "reproduce" / "paper.sh", "data", "out"],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    typed = [part.split("\n") for part in (tmp_path / "said").read_text().strip().split("\n\n")]
    assert len(typed) > 10
    reproduce = typer.main.get_command(app).commands["reproduce"]  # type: ignore[attr-defined]
    for command, *arguments in typed:
        assert command == "reproduce"
        context = reproduce.make_context("reproduce", arguments)
        assert context.params["case"] in {"cholesterol", "covid-ct", "mura", "cifar10", "privacy"}
        assert context.params["source"]


def test_the_scripts_need_no_more_than_a_posix_shell() -> None:
    for script in EXAMPLES.rglob("*.sh"):
        assert shutil.which("sh")
        subprocess.run(["sh", "-n", script], check=True)
