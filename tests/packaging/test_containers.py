"""The Dockerfiles: linted, and each line of theirs possible with what the project has."""

from __future__ import annotations

import fnmatch
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import ROOT, Sltool, project_files

FILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "optional-dependencies"
]


def instructions(path: Path) -> list[tuple[str, str]]:
    """A Dockerfile's (instruction, arguments), with continued lines joined."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def arguments(path: Path, instruction: str) -> list[str]:
    return [rest for name, rest in instructions(path) if name == instruction]


def sent_to_a_builder() -> set[str]:
    """The project's files that .dockerignore leaves in; it names what stays, after a `*`."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    kept = [line[1:] for line in rules if line.startswith("!")]
    return {
        name
        for name in project_files()
        if any(fnmatch.fnmatch(name, rule) or name.startswith(f"{rule}/") for rule in kept)
    }


def test_there_is_one_for_the_server_and_one_for_a_site() -> None:
    assert [path.name for path in FILES] == ["server.Dockerfile", "site.Dockerfile"]


def test_the_linter_has_no_complaint() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [linter, "--no-color", *FILES], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_is_copied_exists_and_is_all_that_the_package_needs(path: Path) -> None:
    sent = sent_to_a_builder()
    copied = set()
    for rest in arguments(path, "COPY"):
        if not rest.startswith("--from="):
            copied |= {*rest.split()[:-1]}
    for source in copied:
        assert any(name == source or name.startswith(f"{source}/") for name in sent), source
    needed = {name for name in project_files() if name.startswith("sltool/")}
    needed |= {"constraints.txt", "pyproject.toml", "README.md", "LICENSE"}
    assert sent == needed


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_extras_and_the_command_exist(path: Path, sltool: Sltool) -> None:
    stated = dict(rest.partition("=")[::2] for rest in arguments(path, "ARG"))
    assert stated["EXTRAS"] == path.name.partition(".")[0]
    examples = re.findall(r"EXTRAS=([\w,]+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert {name for example in examples for name in example.split(",")} <= EXTRAS.keys()
    command = json.loads(arguments(path, "CMD")[0])
    sltool(*command, "--help").ok()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_runs_without_root_and_writes_private_files(path: Path, tmp_path: Path) -> None:
    assert dict(instructions(path))["USER"].isdigit()
    entrypoint = json.loads(arguments(path, "ENTRYPOINT")[0])
    program = tmp_path / "sltool"
    program.write_text('#!/bin/sh\necho "$(umask) $*" > said\n')
    program.chmod(0o755)
    subprocess.run(
        [*entrypoint, "status", "two words"],
        cwd=tmp_path,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        check=True,
    )
    assert (tmp_path / "said").read_text() == "0077 status two words\n"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_its_versions_are_the_tested_ones(path: Path) -> None:
    assert "BASE=python:3.12-slim" in arguments(path, "ARG")
    installs = [rest for rest in arguments(path, "RUN") if " install --no-cache" in rest]
    assert len(installs) == 1
    assert "PIP_CONSTRAINT=constraints.txt" in installs[0]
