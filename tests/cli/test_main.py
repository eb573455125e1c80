"""The program as a whole: help, versions, several values after one option, exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, Sltool

COMMANDS = ("prepare", "partition", "client-encode", "ship", "server-train", "evaluate")


def test_no_arguments_show_the_help(sltool: Sltool) -> None:
    ran = sltool.run().ok()
    for command in COMMANDS:
        assert command in ran.out
    assert ran.out == sltool.run("--help").ok().out


@pytest.mark.parametrize("args", [["--help"], ["prepare", "--help"], ["list", "--help"]])
def test_help_imports_nothing_heavy(args: list[str]) -> None:
    program = (
        "import sys; sys.argv = ['sltool', *sys.argv[1:]]\n"
        "from sltool.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'pandas', 'h5py', 'sklearn', 'rich'}\n"
        "sys.exit(' '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *args],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_version(sltool: Sltool) -> None:
    from sltool.version import __version__

    assert sltool("--version").ok().out.strip() == f"sltool {__version__}"


@pytest.mark.parametrize(
    "values",
    [
        ["--metrics", "rmsle", "smape"],
        ["--metrics", "rmsle", "--metrics", "smape"],
        ["--metrics=rmsle", "--metrics", "smape"],
        ["--metrics", "rmsle", "smape", "--quiet"],
    ],
)
def test_several_values_after_one_option(trained: Sltool, values: list[str]) -> None:
    ran = trained("evaluate", "--json", *values).ok()
    assert list(ran.json["metrics"]) == ["rmsle", "smape"]


@pytest.mark.parametrize(
    "typed",
    [
        ["--set", "training.epochs=3", "cholesterol"],
        ["--set", "training.epochs=3", "training.batch_size=32", "cholesterol"],
        ["cholesterol", "--set", "training.epochs=3", "training.batch_size=32"],
        ["--set", "training.epochs=3", "--", "cholesterol"],
        ["--seed", "1", "cholesterol", "--set", "training.epochs=3"],
        ["--force", "--set", "training.epochs=3", "--workers", "1", "cholesterol"],
    ],
)
def test_an_option_does_not_swallow_the_argument_behind_it(
    sltool: Sltool, typed: list[str]
) -> None:
    sltool("prepare", *typed).ok()
    study = (sltool.folder / "study.yaml").read_text()
    assert "epochs: 3" in study
    assert ("batch_size: 32" in study) == ("training.batch_size=32" in typed)


@pytest.mark.slow
def test_an_argument_behind_values_of_any_form(sltool: Sltool, tmp_path: Path) -> None:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    for kind in ("datasets", "models"):
        sltool("list", "--plugins-dir", plugins, kind).ok()
        sltool("list", kind, "--plugins-dir", plugins).ok()
    quick = ("--seeds", 1, "--set", "training.epochs=1", "model.widths=[8, 8]")
    arms = ("--arms", "friedewald", "martin-hopkins")
    for index, typed in enumerate(
        [
            ("cholesterol", *arms, *quick),
            (*arms, "cholesterol", *quick),
            (*quick, *arms, "cholesterol"),
        ]
    ):
        ran = sltool("reproduce", *typed, "--out", f"out{index}", "--json").ok()
        assert [arm["arm"] for arm in ran.json["arms"]] == ["friedewald", "martin-hopkins"]
    refused = sltool("reproduce", *arms, *quick)
    assert refused.code == 2
    assert "martin-hopkins" in refused.err


def test_runs_behind_an_option(trained: Sltool, tmp_path: Path) -> None:
    trained("evaluate").ok()
    trained("server-train", "--run", "two", "--max-epochs", 1).ok()
    trained("evaluate", "--run", "two").ok()
    (tmp_path / "plugins").mkdir()
    ran = trained("compare", "--plugins-dir", tmp_path / "plugins", "two", "default", "--json").ok()
    assert [run["run"] for run in ran.json["runs"]] == ["two", "default"]


def test_unknown_metric_has_the_nearest_and_the_list(trained: Sltool) -> None:
    ran = trained("evaluate", "--metrics", "rmsle", "smap")
    assert ran.code == 2
    assert "unknown metric 'smap'; did you mean 'smape'?" in ran.err
    assert "kappa" in ran.err


def test_json_is_one_document_and_progress_is_silent_without_a_terminal(trained: Sltool) -> None:
    ran = trained.run("evaluate", "--json").ok()
    assert set(ran.json) >= {"run", "split", "samples", "metrics"}
    assert ran.err == ""


def test_quiet_prints_nothing(trained: Sltool) -> None:
    ran = trained("evaluate", "--quiet").ok()
    assert (ran.out, ran.err) == ("", "")


def test_study_option_reaches_another_folder(trained: Sltool) -> None:
    other = trained.folder / "elsewhere"
    other.mkdir()
    folder, trained.folder = trained.folder, other
    assert trained("evaluate", "--study", folder, "--json").ok().json["run"] == "default"


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "mps"])
def test_a_device_that_is_not_there(trained: Sltool, device: str) -> None:
    ran = trained("evaluate", "--device", device)
    assert ran.code == 2
    assert device in ran.err
    assert "Traceback" not in ran.err


def test_list_shows_what_there_is_and_where_from(sltool: Sltool) -> None:
    for kind, name in [("datasets", "covid-ct"), ("models", "mlp"), ("metrics", "kappa")]:
        lines = [line.split() for line in sltool("list", kind).ok().out.splitlines()]
        assert [name, "built-in"] in [line[:2] for line in lines]
        assert all(len(line) > 3 for line in lines)
