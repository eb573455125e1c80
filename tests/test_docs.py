"""The docs: generated pages are up to date, links lead somewhere, and the pages' commands run."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, Sltool, project_files

PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
)
NUMBER = re.compile(r"\d+(\.\d+)?")


def session(page: Path) -> list[tuple[str, str]]:
    """The (command, output) pairs of a page's `console` blocks."""
    pairs: list[tuple[str, str]] = []
    for block in re.findall(r"```console\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                pairs.append((line[2:], ""))
            else:
                pairs[-1] = (pairs[-1][0], f"{pairs[-1][1]}{line}\n")
    return pairs


def run_session(sltool: Sltool, page: Path) -> None:
    """Run a page's commands; their output must equal the page's, except for numbers."""
    pairs = session(page)
    assert pairs
    for command, printed in pairs:
        ran = sltool(*command.removeprefix("sltool ").split()).ok()
        assert shape(ran.out) == shape(printed), command


def shape(text: str) -> list[str]:
    return [re.sub(r" +", " ", NUMBER.sub("#", line)).strip() for line in text.splitlines()]


def test_the_tutorials_session(sltool: Sltool) -> None:
    run_session(sltool, ROOT / "docs" / "tutorial.md")


def test_the_comparisons_session(sltool: Sltool) -> None:
    run_session(sltool, ROOT / "docs" / "how-to" / "compare.md")


def test_the_readmes_two_commands_are_make_targets() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^make (\w+)", readme, re.MULTILINE)
    assert commands[:2] == ["demo", "test"]
    for name in commands:
        assert re.search(rf"^{name}:", makefile, re.MULTILINE)


def test_generated_pages_are_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec
    assert spec.loader
    generate = importlib.util.module_from_spec(spec)
    sys.modules["generate"] = generate
    spec.loader.exec_module(generate)
    for name, text in generate.pages().items():
        written = (ROOT / "docs" / name).read_text(encoding="utf-8")
        assert written == text, f"docs/{name} is out of date: run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_link_targets_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        name = str(page.relative_to(ROOT / "docs"))
        assert name == "README.md" or f"({name})" in index, name


def test_shards_are_never_called_anonymous() -> None:
    """They are pseudonymised personal data."""
    claims = re.compile(
        r"(?<!never )\b(anonymous|anonymi[sz]ed|guaranteed private)\b", re.IGNORECASE
    )
    for path in [*PAGES, *(ROOT / "sltool").rglob("*.py")]:
        for line in path.read_text(encoding="utf-8").splitlines():
            found = claims.search(line)
            assert not found or re.search(r"\b(not|never|neither|no)\b", line), f"{path}: {line}"


def test_nothing_names_a_machines_paths() -> None:
    machine = re.compile(r"(?<![\w.*~])/(?:work|home|root|opt)/|--(?:extra-)?index-url")
    for name in project_files():
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".yaml", ".txt", ".sh"} and path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                assert not machine.search(line) or "re.compile" in line, f"{name}: {line}"
