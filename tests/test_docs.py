"""The docs: generated pages are up to date, links lead somewhere, and the pages' commands run."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import ROOT, Sltool, project_files
from tests.docs.console import code_blocks, is_as_printed, session

LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`[^`\n]*`")
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
)


def run_session(sltool: Sltool, page: Path) -> None:
    """Run a page's commands; their output must be the page's."""
    commands = session(page)
    assert commands
    for command in commands:
        ran = sltool(*command.text.removeprefix("sltool ").split()).ok()
        assert is_as_printed(command, ran.out), f"{command.text} printed\n{ran.out}"


@pytest.mark.slow
def test_the_tutorials_session(sltool: Sltool) -> None:
    page = ROOT / "docs" / "tutorial.md"
    run_session(sltool, page)
    (looks,) = code_blocks(page, "sh")
    for line in looks.splitlines():
        if line.startswith("sltool "):
            sltool(*line.partition("#")[0].split()[1:]).ok()


@pytest.mark.slow
def test_the_comparisons_session(sltool: Sltool) -> None:
    run_session(sltool, ROOT / "docs" / "how-to" / "compare.md")


def test_the_readmes_two_commands_are_make_targets() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^make ([\w-]+)", readme, re.MULTILINE)
    assert commands[:2] == ["demo", "test"]
    for name in commands:
        assert re.search(rf"^{name}:", makefile, re.MULTILINE)


@pytest.mark.slow
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
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = INLINE.sub("", FENCED.sub("", page.read_text(encoding="utf-8")))
    for target in LINK.findall(text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        assert there.is_file(), f"{target}: no such file"
        assert not anchor or anchor in anchors(there), f"{target}: no such heading"


def anchors(page: Path) -> set[str]:
    """What leads to a page's headings, in the repository's pages and in the site."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    found: Counter[str] = Counter()
    names = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        words = re.sub(r"\[(.+?)\]\(.+?\)", r"\1", heading).lower()
        name = re.sub(r"[^\w\- ]", "", words).strip().replace(" ", "-")
        names.add(f"{name}-{found[name]}" if found[name] else name)
        found[name] += 1
    return names


def test_a_wrong_anchor_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A `b` (c)\n## Limits: 1\n## Limits: 1\n```sh\n# no heading\n```\n")
    assert anchors(page) == {"a-b-c", "limits-1", "limits-1-1"}


def test_figures_are_made_by_the_script_that_the_page_names() -> None:
    script = (ROOT / "examples" / "reproduce" / "paper.sh").read_text(encoding="utf-8")
    (pictures,) = re.findall(r"for picture in ([\w ]+);", script)
    for page in PAGES:
        for group in re.findall(r"((?:^!\[.*\n)+)\n(.*)", page.read_text(), re.MULTILINE):
            images, caption = group
            for run, picture in re.findall(r"\(reproduction/([\w-]+)/(\w+)\.png\)", images):
                assert picture in pictures.split()
                if "command of this section" not in caption:
                    assert f"`{run}` of `make reproduce`" in caption, f"{page}: {images}"
                    assert f"run {run} " in script
            assert images.count("![") == images.count("(reproduction/"), images


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """Every page in the navigation, every link and anchor right, and nothing from elsewhere."""
    pytest.importorskip("material", reason="needs the extra docs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    loaded = re.compile(
        r"<(?:script|img|iframe)[^>]*src=[\"']?https?:|<link[^>]*href=[\"']?https?:"
    )
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        assert not loaded.search(page.read_text(encoding="utf-8")), page
    assert (tmp_path / "site" / "repository" / "examples" / "reproduce" / "paper.sh.txt").is_file()


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
