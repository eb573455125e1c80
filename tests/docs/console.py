"""The `console` blocks of a page: who types what, and what it prints."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

PROMPT = re.compile(r"([a-z-]*)\$ (.+)")
# A line of the page that stands for any lines.
ANY = "..."
HEX = r"[0-9a-f]"
RANDOM = re.compile(
    rf"age1\w+|ed25519:[\w+/=]+|\b{HEX}{{4}}(?: {HEX}{{4}}){{7}}\b|\b{HEX}{{12,}}\b"
    r"|\d{4}-\d\d-\d\dT[\d:]+Z|\d+(?:\.\d+)?(?:e-?\d+)?"
)


@dataclass
class Command:
    """A command, the prompt's word before `$`, and the lines that the page says it prints."""

    who: str
    text: str
    printed: list[str] = field(default_factory=list)


def session(page: Path) -> list[Command]:
    """The commands of a page's `console` blocks, in order."""
    commands: list[Command] = []
    for block in code_blocks(page, "console"):
        for line in block.splitlines():
            if prompt := PROMPT.fullmatch(line):
                commands.append(Command(prompt[1], prompt[2]))
            else:
                commands[-1].printed.append(line)
    return commands


def code_blocks(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def is_as_printed(command: Command, output: str) -> bool:
    """Whether the output is the page's, except for numbers, keys, digests and times."""
    pattern = "".join(
        "(?:.*\n)*?" if line == ANY else re.escape(_shape(line)) + "\n" for line in command.printed
    )
    lines = "".join(f"{_shape(line)}\n" for line in output.splitlines())
    return re.fullmatch(pattern, lines) is not None


def _shape(line: str) -> str:
    return re.sub(r" +", " ", RANDOM.sub("#", line)).strip()
