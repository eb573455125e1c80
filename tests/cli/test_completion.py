"""TAB in bash, zsh and fish: names, quickly, and never a message."""

from __future__ import annotations

import inspect
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_origin

import pytest
from pydantic import BaseModel

from sltool.cli import completion
from sltool.cli.study_keys import setting_keys
from sltool.registry import registries
from sltool.study.schema import Study
from tests.conftest import ROOT, Sltool

# Imports each of which would take longer than a person waits for TAB.
SLOW = ("torch", "pandas", "scipy", "sklearn", "h5py")
PROGRAM = f"""
import sys
from sltool.__main__ import main
try:
    main()
finally:
    assert not {{*{SLOW!r}}} & {{*sys.modules}}
"""


def tab(shell: str, folder: Path, line: str, **environment: str) -> list[str]:
    """What a shell offers at the end of a line, by the protocol of its script."""
    words = line.split(" ")
    asked = {
        "bash": {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)},
        "zsh": {"_TYPER_COMPLETE_ARGS": line},
        "fish": {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            **asked,
            completion.VARIABLE: f"complete_{shell}",
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return list(_names(shell, done.stdout))


def _names(shell: str, offered: str) -> Iterator[str]:
    for line in filter(None, offered.splitlines()):
        if shell != "zsh":
            yield line.split("\t")[0]
        elif line != "_files":
            yield line.removeprefix("_arguments '*: :((").split('"')[1]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_names_of_what_there_is(trained: Sltool, shell: str) -> None:
    lines = {
        "sltool prepare ": registries["datasets"].names(),
        "sltool evaluate --metrics rmsle sm": ["smape"],
        "sltool ship --site ": ["A", "B", "C"],
        "sltool evaluate --run ": ["default"],
    }
    offered = {line: tab(shell, trained.folder, line) for line in lines}
    assert offered == lines


@pytest.mark.slow
def test_other_names(trained: Sltool) -> None:
    def names(line: str) -> list[str]:
        return tab("bash", trained.folder, line)

    # Bash takes the equals sign for a word.
    assert names("sltool evaluate --run = d") == ["default"]
    assert names("sltool compare ") == ["default"]
    assert names("sltool server-train --wait-for A ") == ["A", "B", "C"]
    assert names("sltool reproduce mur") == ["mura"]
    assert names("sltool prepare --column a") == ["age="]
    assert names("sltool queue a") == ["approve"]
    assert names("sltool list m") == ["models", "metrics"]


def test_columns_that_sites_can_follow_from(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{n},{n % 2},{'ab'[n % 2]},m{n % 3},s{n % 3}" for n in range(20)]
    (tmp_path / "rows.csv").write_text("\n".join(["age,label,arm,scanner model,scanner", *rows]))
    options = ("--source", "rows.csv", "--from-this-site", "--set", "dataset.headers.site=scanner")
    Sltool(tmp_path, capfd)("prepare", "table", *options).ok()
    names = tab("bash", tmp_path, "sltool partition --by ")
    assert {"site", "arm", "scanner model"} <= {*names}
    assert not {"age", "label"} & {*names}
    (tmp_path / "source-columns.json").unlink()
    assert tab("zsh", tmp_path, "sltool partition --by a") == ["arm"]


def test_keys_of_the_study_file(trained: Sltool, tmp_path: Path) -> None:
    offered = tab("bash", tmp_path, "sltool study new images --set model.name=resnet ")
    described = {key.removesuffix("=") for key in offered}
    assert {"training.epochs", "model.cut", "model.code.size", "encoding.augment.flip"} <= described
    assert {"dataset.headers.patient", "dataset.classes", "split.official"} <= described
    assert {"model.width", "dataset.columns"} & described == set()
    assert not [key for key in described if key.startswith(("id", "samples", "sites", "recipe"))]
    assert tab("fish", trained.folder, "sltool prepare --set dataset.pa") == ["dataset.patient="]
    assert tab("zsh", trained.folder, "sltool prepare --set model.wi") == ["model.widths="]


def test_the_keys_in_the_source_text_are_those_of_the_schemas() -> None:
    for dataset in registries["datasets"].entries():
        expected = {f"dataset.{key}" for key in _fields(dataset.object.Settings)}
        found = {key for key in setting_keys(dataset.name, "", ()) if key.startswith("dataset.")}
        assert found == expected, dataset.name
    found = {*setting_keys("", "", ())}
    expected = {*_fields(Study)}
    sections = ("split.", "model.", "encoding.", "training.", "privacy.")
    assert found == {key for key in expected if key.startswith(sections)}


def _fields(schema: type[BaseModel]) -> Iterator[str]:
    """The keys of a schema as pydantic knows them."""
    for name, field in schema.model_fields.items():
        kinds = [field.annotation, *get_args(field.annotation)]
        nested = [kind for kind in kinds if inspect.isclass(kind) and issubclass(kind, BaseModel)]
        if nested and get_origin(field.annotation) is not dict:
            yield from (f"{name}.{key}" for key in _fields(nested[0]))
        else:
            yield name


@pytest.mark.parametrize("text", [None, "sites: [", "sites: 3\n", "\x00"])
def test_nothing_outside_a_study_or_in_a_broken_one(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "study.yaml").write_text(text)
    for line in ("sltool ship --site ", "sltool evaluate --run "):
        assert tab("bash", tmp_path, line) == []
    assert "prepare" in tab("bash", tmp_path, "sltool nonsense --x ")


def test_plug_ins_are_named_without_being_run(tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text('raise SystemExit("run")\n@metrics.register("zeal")\ndef _(): ...\n')
    offered = tab("bash", tmp_path, "sltool evaluate --metrics z", SLTOOL_PLUGINS=str(plugin))
    assert offered == ["zeal"]


def test_the_names_in_the_source_text_are_those_that_are_registered() -> None:
    for kind, registry in registries.items():
        assert registry.names() == [entry.name for entry in registry.entries()], kind


def test_the_arms_are_those_of_the_comparisons() -> None:
    from sltool.experiments.arms import ARMS, FAMILIES

    assert set(completion.ARMS) == {*ARMS, *FAMILIES, "single:A"}


def test_a_bash_that_sources_the_script(trained: Sltool) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash here")
    (trained.folder / "bin").mkdir()
    program = trained.folder / "bin" / "sltool"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sltool "$@"\n')
    program.chmod(0o755)
    typed = (
        'source <(_SLTOOL_COMPLETE=source_bash sltool); COMP_WORDS=(sltool ship --site "");'
        'COMP_CWORD=3; $(complete -p sltool | sed "s/.*-F //; s/ .*//") sltool; '
        'echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        [bash, "--norc", "-c", typed],
        cwd=trained.folder,
        env={
            **os.environ,
            "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("A B C\n", "")
