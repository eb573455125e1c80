"""Which slow packages a command imports, and what it prints with `--json`.

A user waits for each import at every start. Each command runs as a process of its own.
"""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sltool.shard.keys import SigningKey
from tests.conftest import ROOT
from tests.images import two_classes

SLOW = {"torch", "pandas", "sklearn", "scipy"}
NOTHING: set[str] = set()
KEY = r"[a-z_]+"
PROGRAM = """
import sys

import pytest
from sltool.cli.main import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print(*sorted({slow} & set(sys.modules)), file=sys.stderr)
"""

# Run in this order, in one folder, each as a process of its own.
IMAGES: dict[str, set[str]] = {
    "prepare covid-ct --source slices --set training.epochs=1 --set dataset.size=32": {"torch"},
    "prepare --source slices": NOTHING,
    "partition": NOTHING,
    "enroll --site A": NOTHING,
    "log --site A": NOTHING,
    "client-encode": NOTHING,
    "inspect outbox/A/A-train-00000.h5 --png a.png --html a.html": NOTHING,
    "ship": NOTHING,
    "queue verify server/inbox/A-train-00000.h5": NOTHING,
    "queue take server/inbox/A-train-00000.h5": NOTHING,
    "queue take": NOTHING,
    "status": NOTHING,
    "server-train": {"torch"},
    "evaluate --metrics accuracy": {"torch"},
    "compare": NOTHING,
    "compare --intervals": {"pandas", "scipy"},
    "report": {"pandas", "sklearn", "scipy"},
    "evaluate --metrics auroc": {"torch"},
    "evaluate --metrics auroc --by site": {"torch", "scipy"},
    "export": {"torch", "scipy"},
    "client-encode --for prediction --source slices --site A": {"torch"},
    "ship --site A": NOTHING,
    "predict": {"torch"},
    "server-keys": NOTHING,
    "resolve --site A --server-key KEY ANSWER": NOTHING,
    "list metrics": NOTHING,
    "list datasets": {"pandas"},
    "list models": {"torch"},
}
ROWS: dict[str, set[str]] = {
    "study new cholesterol": {"torch", "pandas"},
    "study kit": NOTHING,
    "join study-kit.zip --site D": {"pandas"},
    "study add D.pub": NOTHING,
    "prepare cholesterol": {"pandas", "scipy", "sklearn"},
    "prepare": {"pandas"},
    "partition --site A": NOTHING,
    "fit-privacy-layer --site A --epochs 1": {"torch"},
    "privacy --clip 1 --noise 4": {"scipy"},
    "withdraw --site A --patient PATIENT": NOTHING,
    "reproduce cholesterol --arms friedewald --seeds 1": SLOW,
}


def imported(folder: Path, table: dict[str, set[str]]) -> dict[str, set[str]]:
    """The packages of `SLOW` that each command of the table imports."""
    found = {}
    for words in table:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM.format(slow=SLOW), *_arguments(folder, words), "--json"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
        found[words] = set(done.stderr.splitlines()[-1].split())
        assert_documented(words, json.loads(done.stdout))
    return found


def assert_documented(words: str, document: dict[str, Any]) -> None:
    """The keys of a `--json` result are those of docs/json.md."""
    (text,) = (
        row.split("|")[2]
        for row in (ROOT / "docs" / "json.md").read_text("utf-8").splitlines()
        if row.startswith("| `") and f"{words} ".startswith(f"{row.split('`')[1]} ")
    )
    variants = [
        (re.findall(KEY, re.sub(r"\(.*?\)", "", part)), re.findall(KEY, part))
        for part in text.split(" or ")
    ]
    keys = set(document)
    assert any(set(least) <= keys <= set(most) for least, most in variants), (words, keys)


def _arguments(folder: Path, words: str) -> list[str]:
    if "PATIENT" in words:
        with (folder / "sites" / "A" / "pseudonyms.csv").open(newline="") as file:
            patient = next(csv.DictReader(file))["patient"]
        return [patient if word == "PATIENT" else word for word in words.split()]
    (answer,) = [*folder.glob("server/answers/*"), None][:1]
    key = folder / "server" / "key"
    public = SigningKey.load(key).public if key.is_file() else ""
    known = {"ANSWER": str(answer), "KEY": public}
    return [known.get(word, word) for word in words.split()]


@pytest.mark.slow
def test_a_study_of_images(tmp_path: Path) -> None:
    two_classes(tmp_path / "slices", 60, ("non-COVID", "COVID"))
    assert imported(tmp_path, IMAGES) == IMAGES


@pytest.mark.slow
def test_a_study_of_rows(tmp_path: Path) -> None:
    assert imported(tmp_path, ROWS) == ROWS


def test_no_command_is_missing_above() -> None:
    from sltool.cli.main import app

    names = {command.name for command in app.registered_commands}
    names |= {group.name for group in app.registered_groups}
    # An audit trains attackers for a minute, so that what it imports is of no account.
    assert names == {words.split()[0] for words in [*IMAGES, *ROWS]} | {"audit"}


def test_every_command_has_json_and_its_keys_are_documented() -> None:
    import typer

    from sltool.cli.main import app

    page = (ROOT / "docs" / "json.md").read_text("utf-8")
    for name, parameters in _leaves(typer.main.get_command(app)):
        assert "--json" in {option for one in parameters for option in one.opts}, name
        assert f"| `{name}` |" in page


def _leaves(group: Any, prefix: str = "") -> Iterator[tuple[str, list[Any]]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _leaves(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command.params
