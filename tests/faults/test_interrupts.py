"""Ctrl-C at any moment: a line says what to type, and the same command then succeeds.

The suite takes a sample. `make faults` strikes every write, fsync, rename and removal of every
stage, and adds 20 random instants for each.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sltool.shard.answer import MAGIC
from sltool.shard.encryption import make_identity
from sltool.shard.keys import SigningKey
from sltool.study.layout import StudyFolder
from tests.conftest import ROOT
from tests.faults.conftest import ALL, Zygote
from tests.faults.fork_server import INTERRUPT
from tests.images import two_classes

STAGES = {
    "prepare": "prepare cholesterol --source ../rows.csv --seed 0 --set training.epochs=2",
    "partition": "partition --ratios 7:3",
    "client-encode": "client-encode",
    "ship": "ship",
    "queue take": "queue take",
    "server-train": "server-train --device cpu",
    "evaluate": "evaluate",
    "export": "export",
    "cases": "client-encode --for prediction --source ../cases.csv --site A",
    "ship cases": "ship --site A",
    "predict": "predict",
    "resolve": "resolve --site A ANSWER --server-key KEY",
    "encrypted predict": "predict --force",
}
PREDICT = {"predict": ".predictions", "encrypted predict": ".age"}
SAMPLE, INSTANTS = 1, 20 if ALL else 1
PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from sltool.__main__ import main
main()
"""
HEAD = "age,sex,bmi,bp,TC,HDL,TG"


@pytest.fixture(scope="module")
def states(fork_server: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the study's folder before each stage, and the two tables beside them."""
    root = tmp_path_factory.mktemp("interrupts")
    rows = [f"{20 + n},{1 + n % 2},{22 + n % 9},94,{190 + n},50,{110 + n % 30}" for n in range(60)]
    (root / "rows.csv").write_text("\n".join([f"{HEAD},LDL", *(f"{row},120" for row in rows)]))
    (root / "cases.csv").write_text("\n".join([HEAD, *rows[:20]]))
    study = root / "study"
    study.mkdir()
    for name in STAGES:
        if name == "encrypted predict":
            encrypt_answers(study)
        shutil.copytree(study, root / name)
        fork_server.ok(study, arguments(study, name))
    return root


def encrypt_answers(study: Path) -> None:
    """Make site A one whose answers are encrypted; none is there yet."""
    recipient = make_identity(StudyFolder(study).site("A").identity)
    file = study / "study.yaml"
    head, tail = file.read_text().split("  A:\n")
    file.write_text(f"{head}  A:\n    recipient: {recipient}\n{tail}")
    shutil.rmtree(study / "server" / "answers")


def arguments(folder: Path, stage: str) -> list[str]:
    """The words of a stage, with the answer's file and the server's key in their places."""
    words = STAGES[stage].split()
    if "ANSWER" in words:
        (answer,) = (folder / "server" / "answers").iterdir()
        known = {"ANSWER": str(answer), "KEY": key_of(folder)}
        return [known.get(word, word) for word in words]
    return words


def key_of(folder: Path) -> str:
    """The server's public key."""
    return SigningKey.load(StudyFolder(folder).server_key).public


def copy(states: Path, stage: str, name: str) -> Path:
    """The study before a stage, beside the tables."""
    return Path(shutil.copytree(states / stage, states / name))


def assert_stopped(code: int, output: str, folder: Path, stage: str) -> None:
    """It has said what is kept and what to type, on one line; or the work was done."""
    typed = " ".join(arguments(folder, stage)) if stage != "resolve" else "resolve"
    assert "Traceback" not in output
    if code == 0:
        return  # It came when the stage was done.
    assert code == 130, output
    *_, line = output.splitlines()
    assert line.startswith("stopped; ")
    assert f". To go on: sltool {typed}" in line


def go_on(fork_server: Zygote, folder: Path, stage: str) -> None:
    """`status` reads the state, and the same command succeeds."""
    fork_server.ok(folder, ["status"])
    fork_server.ok(folder, arguments(folder, stage))
    fork_server.ok(folder, ["status"])
    assert not [path for path in folder.rglob("*.part") if path.is_file()]
    if stage in PREDICT:
        # Two where it was stopped between writing an answer and recording it.
        answers = list((folder / "server" / "answers").iterdir())
        assert {path.suffix for path in answers} == {PREDICT[stage]}
        for answer in answers:
            fork_server.ok(
                folder, ["resolve", "--site", "A", str(answer), "--server-key", key_of(folder)]
            )


@pytest.mark.parametrize("stage", STAGES)
def test_at_a_call(fork_server: Zygote, states: Path, stage: str) -> None:
    folder = copy(states, stage, f"{stage} counted")
    count = fork_server.ok(folder, arguments(folder, stage))
    # A run that is in its last epoch when it is asked to stop ends as usual.
    chosen = random.Random(stage).sample(range(count // 2), SAMPLE)
    stopped = 0
    for call in range(count) if ALL else chosen:
        folder = copy(states, stage, f"{stage} {call}")
        code, _, output = fork_server.run(folder, arguments(folder, stage), call, INTERRUPT)
        assert_stopped(code, output, folder, stage)
        stopped += code == 130
        go_on(fork_server, folder, stage)
        shutil.rmtree(folder)
    assert stopped


@pytest.mark.parametrize("stage", PREDICT)
def test_a_kill_leaves_no_answer_in_parts(fork_server: Zygote, states: Path, stage: str) -> None:
    """Whatever is left is encrypted where answers are, and the next command takes it away."""
    folder = copy(states, stage, f"{stage} killed, counted")
    count = fork_server.ok(folder, arguments(folder, stage))
    for call in range(count) if ALL else range(count - 8, count):
        folder = copy(states, stage, f"{stage} killed {call}")
        code, _, output = fork_server.run(folder, arguments(folder, stage), call)
        assert code == -9, output
        if stage == "encrypted predict":
            files = [path for path in (folder / "server").rglob("*") if path.is_file()]
            assert not [path for path in files if MAGIC in path.read_bytes()]
        go_on(fork_server, folder, stage)
        shutil.rmtree(folder)


@pytest.mark.parametrize("seed", range(INSTANTS * len(STAGES)) if ALL else range(2))
def test_at_a_random_instant(fork_server: Zygote, states: Path, seed: int) -> None:
    chosen = random.Random(seed)
    stage = chosen.choice(list(STAGES))
    folder = copy(states, stage, f"{stage} at {seed}")
    words, seconds = arguments(folder, stage), chosen.uniform(0.01, 0.4)
    code, _, output = fork_server.run(folder, words, action=INTERRUPT, seconds=seconds)
    assert_stopped(code, output, folder, stage)
    go_on(fork_server, folder, stage)


def test_of_a_terminal_reaches_workers_too_and_leaves_none(tmp_path: Path) -> None:
    """A terminal signals every process of a command; those that decode say nothing."""
    two_classes(tmp_path / "slices", 150, ("non-COVID", "COVID"))
    words = ["prepare", "covid-ct", "--source", "slices", "--workers", "2", "--json"]
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while process.poll() is None and not (tmp_path / "prepared.h5.part").is_file():
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert json.loads(out)["next"] == f"sltool {' '.join(words)}"
    last = err.splitlines()[-1]
    assert last.startswith("stopped; study.yaml and the privacy layer are kept")
    assert "Traceback" not in err
    deadline = time.monotonic() + 10
    while _alive(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(process.pid)


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
