"""`python -m tests.bench [NAME ...]`: run all benchmarks, or those named, and print one table.

Without a name, `audit` is left out: its thorough part takes hours.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from tests.bench import Row

VERDICTS = {True: "met", False: "NOT MET", None: "-"}


def main(names: list[str]) -> None:
    known = sorted(path.stem for path in Path(__file__).parent.glob("bench_*.py"))
    known.remove("bench_audit")
    print("| what | measured | bar | |\n| --- | --- | --- | --- |", flush=True)
    for module in [f"bench_{name}" for name in names] or known:
        for row in importlib.import_module(f"tests.bench.{module}").rows():
            print(line(row), flush=True)


def line(row: Row) -> str:
    return f"| {row.what} | {row.measured} | {row.bar} | {VERDICTS[row.met]} |"


if __name__ == "__main__":
    main(sys.argv[1:])
