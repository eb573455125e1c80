"""Hooks of mkdocs: what the site needs beyond the pages themselves.

Links that lead out of docs/ work as in the repository: a file that a page links to, such as
../examples/reproduce/paper.sh, becomes a file of the site, in `repository/`. Prompts stand out from
output.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"\]\((\.\./[^)#\s]+)")
FOLDER = "repository"
# A line such as `hospital-a$ sltool ship`, which Pygments takes for output.
PROMPT = re.compile(r'<span class="go">([a-z-]+\$) (.*?)</span>')


def outside(page: str, target: str) -> str | None:
    """The path from the repository's root, for a link that leads out of docs/; else None."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
    return None if path.startswith("docs/") else path


def _published(path: str) -> str:
    # Shown as text by a browser, and not rendered as a page.
    return f"{FOLDER}/{path}.txt"


def on_files(files: Any, config: Any) -> Any:
    """Add the files that pages link to.

    Raises:
        FileNotFoundError: there is no such file in the repository.
    """
    for page in [file for file in files if file.src_uri.endswith(".md")]:
        for target in LINK.findall(page.content_string):
            path = outside(page.src_uri, target)
            if path and files.get_file_from_path(_published(path)) is None:
                text = (ROOT / path).read_text(encoding="utf-8")
                files.append(File.generated(config, _published(path), content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Let links to those files lead to their copies in the site."""

    def link(match: re.Match[str]) -> str:
        path = outside(page.file.src_uri, match[1])
        if path is None:
            return match[0]
        return f"]({posixpath.relpath(_published(path), posixpath.dirname(page.file.src_uri))}"

    return LINK.sub(link, markdown)


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Mark a prompt that says who types, and the command behind it."""
    return PROMPT.sub(r'<span class="gp">\1</span> <span class="typed">\2</span>', html)
