"""A file of a study that was damaged or edited is bad input, with a message that names it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Sltool, call_main

Damage = Callable[[bytes], bytes]
ANY: dict[str, Damage] = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "noise": lambda data: bytes(b"\xff\xfe\x00"[n % 3] for n in range(len(data))),
}
JSON: dict[str, Damage] = {
    **ANY,
    "list": lambda data: b"[]",
    "null": lambda data: b"null",
    "no keys": lambda data: b"{}",
    "deep": lambda data: b"[" * 100_000,
    "other types": lambda data: json.dumps(dict.fromkeys(json.loads(data), 7)).encode(),
}
# An empty mapping is what these are before anything was done.
MAPPING = {kind: damage for kind, damage in JSON.items() if kind != "no keys"}
CSV: dict[str, Damage] = {
    **ANY,
    "no head": lambda data: data.split(b"\n", 1)[1],
    "short line": lambda data: data + b"1\n",
    "quote": lambda data: data + b'"',
}
# The file, the kinds of damage, and a command that reads it.
FILES: list[tuple[str, dict[str, Damage], list[str]]] = [
    ("privacy-layer.safetensors", ANY, ["client-encode", "--force"]),
    ("prepared.h5", ANY, ["prepare"]),
    ("prepared.h5", ANY, ["partition"]),
    ("sites/B/private.h5", ANY, ["client-encode", "--site", "B"]),
    ("sites/B/encoded.json", JSON, ["client-encode", "--site", "B"]),
    ("sites/B/encoded.json", JSON, ["ship", "--site", "B"]),
    ("sites/B/shipped.json", MAPPING, ["ship", "--site", "B"]),
    ("sites/B/pseudonyms.csv", CSV, ["withdraw", "--site", "B", "--patient", "no"]),
    ("server/runs/default/run.json", JSON, ["server-train"]),
    ("server/runs/default/run.json", JSON, ["evaluate"]),
    ("server/runs/default/run.json", JSON, ["compare"]),
    ("server/runs/default/run.json", JSON, ["report"]),
    ("server/runs/default/metrics.json", MAPPING, ["compare"]),
    ("server/runs/default/checkpoint.pt", ANY, ["server-train"]),
    ("server/runs/default/model.safetensors", ANY, ["evaluate"]),
    ("server/runs/default/history.csv", CSV, ["report"]),
    ("server/runs/default/predictions.csv", CSV, ["report"]),
    ("server/rejected/B-train-00001.h5.reason.json", JSON, ["status"]),
    ("server/store/index.json", JSON, ["evaluate"]),
    ("server/identity", ANY, ["server-keys"]),
    ("study.yaml", {**ANY, "deep": lambda data: b"[" * 100_000}, ["ship"]),
]
CASES = [
    pytest.param(name, damage, command, id=f"{name}-{kind}-{command[0]}")
    for name, kinds, command in FILES
    for kind, damage in kinds.items()
]


@pytest.fixture(scope="module")
def evaluated_study(trained_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`trained_study`, evaluated, with a refused file."""
    folder = tmp_path_factory.mktemp("evaluated") / "study"
    shutil.copytree(trained_study, folder)
    (folder / "server" / "inbox" / "B-train-00001.h5").write_text("nonsense")
    call_main(folder, "queue", "take", "--quiet")
    assert call_main(folder, "evaluate", "--quiet") == 0
    assert call_main(folder, "server-keys", "--quiet") == 0
    return folder


@pytest.mark.parametrize(("name", "damage", "command"), CASES)
def test_damaged(
    evaluated_study: Path, sltool: Sltool, name: str, damage: Damage, command: list[str]
) -> None:
    shutil.copytree(evaluated_study, sltool.folder, dirs_exist_ok=True)
    path = sltool.folder / name
    path.write_bytes(damage(path.read_bytes()))
    ran = sltool(*command)
    assert "Traceback" not in ran.err
    if name.endswith("index.json"):
        assert "rebuilding the store" in ran.ok().err
        return
    # A damaged study.yaml looks like a user's mistake.
    assert ran.code == (2 if name == "study.yaml" else 3), (ran.code, ran.err)
    assert path.name in ran.err
    assert "next:" in ran.err


@pytest.mark.parametrize(
    ("name", "advised", "command"),
    [
        ("prepared.h5", ["prepare", "--force"], ["partition"]),
        ("sites/B/private.h5", ["partition", "--force"], ["client-encode"]),
        ("server/runs/default/run.json", ["server-train", "--force"], ["evaluate"]),
        ("server/runs/default/checkpoint.pt", ["server-train", "--force"], ["evaluate"]),
        ("server/runs/default/model.safetensors", ["server-train", "--force"], ["evaluate"]),
        ("server/runs/default/history.csv", ["server-train"], ["report"]),
        ("server/runs/default/predictions.csv", ["evaluate"], ["report"]),
    ],
)
def test_the_advice_of_the_message_works(
    evaluated_study: Path, sltool: Sltool, name: str, advised: list[str], command: list[str]
) -> None:
    shutil.copytree(evaluated_study, sltool.folder, dirs_exist_ok=True)
    (sltool.folder / name).write_bytes(b"\xff\xfe")
    ran = sltool(*command)
    if command[0] != "evaluate" or not name.endswith("checkpoint.pt"):
        assert ran.code == 3, ran.err
    sltool(*advised).ok()
    sltool(*command).ok()
