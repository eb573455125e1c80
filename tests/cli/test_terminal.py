"""What a terminal shows: 40 columns, colours, progress; and what a program gets with --json."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sltool.cli.blocks import has_colour
from sltool.progress import rate_text
from tests.cli.terminal import in_terminal
from tests.conftest import Ran, Sltool

NARROW = 40
COLOUR = re.compile(r"\x1b\[(3|4|9)\d[;m]")


def commands() -> dict[str, Any]:
    """'queue take' -> the command, for every command that can be typed."""
    import typer

    from sltool.cli.main import app

    def walk(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        for name, command in group.commands.items():
            yield f"{prefix}{name}", command
            if hasattr(command, "commands"):
                yield from walk(command, f"{prefix}{name} ")

    return dict(walk(typer.main.get_command(app), ""))


def assert_fits(text: str, narrow: int = NARROW) -> None:
    """No line is wider, but for a single word that is longer."""
    for line in text.splitlines():
        assert len(line) <= narrow or len(line.split()) == 1, line


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(NARROW))


@pytest.mark.usefixtures("narrow")
def test_every_help_fits_40_columns_with_whole_words(sltool: Sltool) -> None:
    found = commands()
    for name, command in found.items():
        shown = sltool(*name.split(), "--help").ok().out
        assert_fits(shown)
        words = set(shown.split())
        for param in command.params:
            assert set(param.opts) <= words | {param.name}, name
            assert set((param.help or "").split()) <= words, name
    shown = sltool("--help").ok().out
    assert_fits(shown)
    assert {name.split()[0] for name in found} <= set(shown.split())
    assert "..." not in shown.replace("[ARGS]...", "")


@pytest.mark.usefixtures("narrow")
def test_every_output_fits_40_columns(trained: Sltool) -> None:
    trained("evaluate", "--quiet").ok()
    for words in (
        "status",
        "evaluate --by site",
        "compare --intervals",
        "ship",
        "queue take",
        "partition",
        "privacy --clip 1 --noise 4 --records 3",
        "log --site A",
        "list metrics",
        "inspect outbox/A/A-train-00000.h5",
        "server-train",
        "client-encode",
    ):
        ran = trained(*words.split()).ok()
        assert_fits(ran.out)
        assert_fits(ran.err)
    for words in ("evaluate --metrics smap", "shp", "ship --site Z", "evaluate --rnu x"):
        ran = trained(*words.split())
        assert ran.code == 2
        assert_fits(ran.err)


@pytest.mark.usefixtures("narrow")
def test_a_table_that_is_too_wide_becomes_records(trained: Sltool) -> None:
    shown = trained("evaluate", "--by", "site", "--metrics", "mae", "r2").ok().out
    assert re.search(r"^site: all \(44 samples\)\n  mae: \d", shown, re.M)


def test_a_file_gets_whole_lines(trained: Sltool) -> None:
    lines = trained("evaluate", "--by", "site").ok().out.splitlines()
    assert max(map(len, lines)) > 120


def test_rates() -> None:
    assert [rate_text(speed) for speed in (None, 0.0, 0.05, 1.0, 1234.5)] == [
        "-/s",
        "-/s",
        "20 s each",
        "1/s",
        "1.23e+03/s",
    ]


@pytest.mark.parametrize(
    ("environment", "coloured", "shown"),
    [
        ({}, True, True),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, False, True),
        ({"TERM": "dumb"}, False, False),
    ],
)
def test_progress_has_a_rate_and_the_time_left(
    trained: Sltool, environment: dict[str, str], coloured: bool, shown: bool
) -> None:
    study = trained.folder / "study.yaml"
    study.write_text(study.read_text().replace("epochs: 20", "epochs: 40"))
    code, out, drawn = in_terminal(
        trained.folder, "server-train", "--json", columns=NARROW, **environment
    )
    assert code == 0
    assert json.loads(out)["epochs"] == 40
    assert bool(COLOUR.search(drawn)) == coloured
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn)
    bars = re.findall(r"train default \d+/40 (?:[\d.]+/s|[\d.]+ s each) \d\d:\d\d left", plain)
    assert bool(bars) == shown
    assert_fits(plain.replace("\r", "\n"))


def test_no_progress_and_no_colour_without_a_terminal(
    trained: Sltool, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = trained.folder / "study.yaml"
    study.write_text(study.read_text().replace("epochs: 20", "epochs: 21"))
    monkeypatch.setenv("FORCE_COLOR", "1")
    ran = trained("server-train").ok()
    assert "\x1b" not in ran.err + ran.out
    assert "left" not in ran.err
    shard = "outbox/A/A-train-00000.h5"
    assert COLOUR.search(trained("inspect", shard).ok().out)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not has_colour()
    assert "\x1b" not in trained("inspect", shard).ok().out


@pytest.mark.parametrize(
    ("words", "exit_code", "key", "said"),
    [
        ("ship --site Z", 2, "next", "study.yaml"),
        ("ship --sit A", 2, "next", "`sltool ship --help`"),
        ("shp", 2, "error", "ship"),
        ("evaluate --metrics smap", 2, "error", "smape"),
        ("resolve --site A study.yaml --server-key x", 4, "error", ""),
        ("inspect nothing.h5", 3, "where", "nothing.h5"),
    ],
)
def test_an_error_is_the_document(
    trained: Sltool, words: str, exit_code: int, key: str, said: str
) -> None:
    ran = trained(*words.split(), "--json")
    assert ran.code == ran.json["exit_code"] == exit_code
    assert said in ran.json[key]
    assert ran.err.startswith(f"error: {ran.json['error']}")


def test_an_error_after_the_result_takes_its_place(trained: Sltool, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    shard = "outbox/A/A-train-00000.h5"
    ran: Ran = trained("inspect", shard, "--png", tmp_path / "file" / "a.png", "--json")
    assert ran.code == 3
    assert ran.json["exit_code"] == 3


def test_every_command_prints_one_document_in_an_empty_folder(sltool: Sltool) -> None:
    for name, command in commands().items():
        if hasattr(command, "commands") or name in ("reproduce", "list"):
            continue
        ran = sltool(*name.split(), "--json")
        assert isinstance(ran.json, dict), name
        assert ("error" in ran.json) == (ran.code != 0), name
