"""Command lines in messages: what a person copies is what the command gets."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sltool.datasets.table_files import no_columns
from sltool.shell import command_line, quoted

WORDS = [
    "bmi=BodyMassIndex",
    "BMI=Body mass index",
    "LDL=LDL (mg/dL)",
    "name=d'or",
    "x=a*b?; c",
    "cost=$HOME `date`",
    'size="12"',
    "back=a\\b c",
    "hi=wow! ho",
    "größe=Größe [cm]",
    "",
]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX shells")
@pytest.mark.parametrize("word", WORDS)
def test_a_posix_shell_reads_the_word(word: str) -> None:
    line = f"printf '%s' {quoted(word, windows=False)}"
    assert subprocess.run(["sh", "-c", line], capture_output=True, text=True).stdout == word


@pytest.mark.parametrize(
    ("word", "typed"),
    [
        ("bmi=BodyMassIndex", "bmi=BodyMassIndex"),
        ("BMI=Body mass index", '"BMI=Body mass index"'),
        ("name=d'or", '"name=d\'or"'),
        ("a,b", '"a,b"'),
        (r"C:\data\b.csv", r"C:\data\b.csv"),
        # PowerShell's single quotes.
        ("price in $", "'price in $'"),
        ("it's $5", "'it''s $5'"),
        ("", '""'),
    ],
)
def test_windows_shells_get_double_quotes(word: str, typed: str) -> None:
    assert quoted(word, windows=True) == typed


def test_the_hint_about_columns_is_right_in_both() -> None:
    error = no_columns(["body mass", "LDL"], ["body mass index", "LDL-C"], None)
    assert '`--column "body mass=body mass index" LDL=LDL-C`' in str(error)
    assert command_line(["sltool", "prepare"]) == "sltool prepare"
