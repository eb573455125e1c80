"""Text that fits the terminal: lines broken between words, tables, help."""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from functools import partial
from typing import Any, TextIO

# Below this, the descriptions in a help stand under the options, not beside them.
NARROW = 72
# A column of text is broken into lines of at least so many characters.
LEAST = 24
GAP = "  "
LABEL = re.compile(r"\s*\w+:\s+")


class Verbatim(str):
    """A line that a person copies: it is never broken."""


def columns_of(stream: TextIO) -> int | None:
    """How wide a line may be; None where it goes to a file or a program.

    `COLUMNS` sets it, as everywhere; shells do not export it by themselves.
    """
    given = os.environ.get("COLUMNS", "")
    if given.isdigit() and int(given):
        return int(given)
    if not stream.isatty():
        return None
    return os.get_terminal_size(stream.fileno()).columns or None


def wrapped(text: str, width: int | None) -> list[str]:
    """The lines of a text, each broken between words; longer words stay whole.

    What is broken goes on under the text behind a label ('  where:    ...'), or two characters in.
    """
    if width is None or isinstance(text, Verbatim):
        return text.split("\n")
    lines: list[str] = []
    for line in text.split("\n"):
        # A picture's line is as wide as it should be; its colours do not count.
        fits = len(line) <= width or "\x1b" in line
        lines += [line] if fits else _broken(line, width)
    return lines


def _broken(line: str, width: int) -> list[str]:
    label = LABEL.match(line)
    indent = " " * (label.end() if label and width >= NARROW else _indent_of(line) + 2)
    return textwrap.wrap(
        line,
        width,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
        replace_whitespace=False,
    )


def _indent_of(line: str) -> int:
    return len(line) - len(line.lstrip())


def print_wrapped(text: str, stream: TextIO) -> None:
    """Print a text that fits the stream's terminal."""
    for line in wrapped(text, columns_of(stream)):
        print(line, file=stream)


def aligned(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    text: bool = False,
) -> list[str]:
    """The lines of a table for stdout: the first column left-aligned, the others right-aligned.

    Where it is too wide for the terminal, each row is a record of `head: cell` lines.

    Args:
        text: every column is left-aligned, and the last one may be broken into lines; the head is
            shown with records alone.
    """
    width = columns_of(sys.stdout)
    shown = rows if text else [head, *rows]
    widths = [max((len(row[n]) for row in shown), default=0) for n in range(len(head))]
    if width is None or sum(widths) + len(GAP) * (len(widths) - 1) <= width:
        return [_line(row, widths, text) for row in shown]
    before = sum(widths[:-1]) + len(GAP) * (len(widths) - 1)
    if text and width - before >= LEAST:
        return [line for row in rows for line in _text_lines(row, widths, before, width)]
    return _records(head, rows, width)


def _line(row: Sequence[str], widths: list[int], text: bool) -> str:
    cells = [
        cell.ljust(width) if text or n == 0 else cell.rjust(width)
        for n, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return GAP.join(cells).rstrip()


def _text_lines(row: Sequence[str], widths: list[int], before: int, width: int) -> list[str]:
    start = _line([*row[:-1], ""], widths, True).ljust(before)
    return textwrap.wrap(
        row[-1],
        width,
        initial_indent=start,
        subsequent_indent=" " * before,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [start.rstrip()]


def _records(head: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    lines: list[str] = []
    for row in rows:
        first, *others = [f"{name}: {cell}" for name, cell in zip(head, row, strict=True)]
        for line in (first, *(f"  {other}" for other in others)):
            lines += wrapped(line, width)
    return lines


def fit_help(formatter: Any) -> bool:
    """Make a help formatter fit a narrow terminal; whether it is one.

    Typer's is never narrower than 50 columns, cuts long words, and keeps two columns.
    """
    width = shutil.get_terminal_size().columns
    if width >= NARROW:
        return False
    formatter.width = width
    formatter.write_dl = partial(_write_stacked, formatter)
    formatter.write_text = partial(_write_text, formatter)
    return True


def _write_stacked(formatter: Any, rows: Sequence[tuple[str, str]], **_: Any) -> None:
    """Each description under its option."""
    indent = " " * formatter.current_indent
    for name, description in rows:
        _write_lines(formatter, name, indent)
        _write_lines(formatter, description, f"{indent}    ")


def _write_text(formatter: Any, text: str) -> None:
    indent = " " * formatter.current_indent
    for index, paragraph in enumerate(text.split("\n\n")):
        if index:
            formatter.write("\n")
        _write_lines(formatter, paragraph, indent)


def _write_lines(formatter: Any, text: str, indent: str) -> None:
    for line in textwrap.wrap(
        text,
        formatter.width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    ):
        formatter.write(f"{line}\n")
