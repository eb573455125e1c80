"""Each question to `evaluate` has its own files, and changes no other result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sltool.study.layout import Question, RunFolder
from tests.conftest import Sltool


def files(sltool: Sltool) -> dict[str, bytes]:
    run = sltool.folder / "server" / "runs" / "default"
    return {path.name: path.read_bytes() for path in run.glob("[mp]*[!s]") if path.suffix != ".pt"}


def entry(sltool: Sltool, name: str, question: str) -> Any:
    path = sltool.folder / "server" / "runs" / "default" / name
    found = json.loads(path.read_text())
    assert list(found) == [question]
    return found[question]


def test_other_questions_leave_the_runs_figures_alone(trained: Sltool) -> None:
    run = trained("evaluate", "--json").ok().json
    before = files(trained)
    assert {"metrics.json", "predictions.csv"} <= before.keys()
    for question in (
        ("--sites", "C"),
        ("--level", "patient"),
        ("--split", "validation"),
        ("--split", "validation", "--level", "patient", "--sites", "C", "A"),
        ("--metrics", "smape"),
        ("--by", "site"),
    ):
        trained("evaluate", *question).ok()
    after = files(trained)
    for name, content in before.items():
        assert after[name] == content, name
    names = ("test@C", "test-patient", "validation", "validation-patient@A+C")
    assert after.keys() - before.keys() == {
        *(f"metrics-{name}.json" for name in names),
        *(f"predictions-{name}.csv" for name in names),
    }
    compared = trained("compare", "--json").ok().json["runs"][0]
    assert (compared["samples"], compared["metrics"]) == (44, run["metrics"])


def test_an_answer_says_what_was_asked(trained: Sltool) -> None:
    alone = trained("evaluate", "--sites", "C", "--metrics", "smape", "--json").ok().json
    assert (alone["sites"], alone["samples"]) == (["C"], 4)
    saved = entry(trained, "metrics-test@C.json", "test@C")
    assert (saved["split"], saved["level"], saved["sites"]) == ("test", "image", ["C"])
    assert saved["metrics"]["smape"] == alone["metrics"]["smape"]
    # The command prints the metrics that were asked for; the file has all of them.
    assert list(alone["metrics"]) == ["smape"]
    assert {"rmsle", "mae", "r2"} < saved["metrics"].keys()
    run = trained.folder / "server" / "runs" / "default"
    assert len((run / "predictions-test@C.csv").read_text().splitlines()) == 1 + 4
    assert "test@C (4 samples)" in trained("evaluate", "--sites", "C").ok().out


def test_all_sites_by_name_are_all_sites(trained: Sltool) -> None:
    trained("evaluate", "--sites", "C", "A", "B").ok()
    assert entry(trained, "metrics.json", "test")["samples"] == 44


def test_a_question_about_one_site_is_no_answer_for_the_run(trained: Sltool) -> None:
    trained("evaluate", "--sites", "C").ok()
    for command in (["compare"], ["compare", "default"], ["report"], ["report", "default"]):
        refused = trained(*command)
        assert refused.code == 2, command
        assert "sltool evaluate" in refused.err


def test_compare_notes_runs_that_were_tested_on_different_samples(trained: Sltool) -> None:
    trained("evaluate").ok()
    trained("server-train", "--run", "other").ok()
    trained("evaluate", "--run", "other").ok()
    assert "not tested on the same" not in trained("compare").ok().err
    path = trained.folder / "server" / "runs" / "other" / "metrics.json"
    path.write_text(path.read_text().replace('"samples": 44', '"samples": 40'))
    assert "default 44, other 40; evaluate the runs again" in trained("compare").ok().err


def test_damaged_figures_are_bad_input(trained: Sltool) -> None:
    trained("evaluate").ok()
    path = trained.folder / "server" / "runs" / "default" / "metrics.json"
    for damage in ("{", "[]", '"text"'):
        path.write_text(damage)
        ran = trained("compare")
        assert ran.code == 3, damage
        assert "metrics.json" in ran.err
    trained("evaluate").ok()
    trained("compare").ok()


@pytest.mark.parametrize(
    ("first", "other"),
    [
        (Question("test", "study"), Question("test", "image", ("study",))),
        (Question(sites=("A", "B")), Question(sites=("A_B",))),
        (Question("test"), Question("test", "image", ("test",))),
        (
            Question(sites=tuple(f"Hospital_{n}" for n in range(40))),
            Question(sites=tuple(f"Hospital_{n}" for n in range(41))),
        ),
    ],
)
def test_no_two_questions_share_a_file(first: Question, other: Question) -> None:
    run = RunFolder("r", Path("r"))
    assert run.metrics(first) != run.metrics(other)
    assert run.predictions(first) != run.predictions(other)
    assert max(len(run.predictions(question).name) for question in (first, other)) < 200
