"""All sites together against the smallest one, over several seeds, through the real commands.

    python examples/multi_vs_single.py cholesterol rmsle --source korea_checkup_20000.csv
    python examples/multi_vs_single.py covid-ct accuracy --source covid-ct-sao-paulo

Each seed draws its own privacy layer, split, order and weights. Prints mean and standard deviation.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def sltool(folder: str, *args: str) -> Any:
    """Run a command in the study's folder and return its JSON result."""
    command = [sys.executable, "-m", "sltool", *args, "--json"]
    done = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def figures(dataset: str, source: Path, metrics: list[str], seed: int, extra: list[str]) -> Any:
    """{run: {metric: value}} of one seed."""
    number = ["--seed", str(seed)]
    with tempfile.TemporaryDirectory() as folder:
        sltool(folder, "prepare", dataset, "--source", str(source.resolve()), *number, *extra)
        sltool(folder, "partition", "--ratios", "7:2:1", *number)
        sltool(folder, "client-encode")
        sltool(folder, "ship")
        sltool(folder, "server-train", "--run", "all", *number)
        sltool(folder, "server-train", "--run", "C", "--sites", "C", *number)
        return {
            run: sltool(folder, "evaluate", "--run", run, "--metrics", *metrics)["metrics"]
            for run in ("all", "C")
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("dataset")
    parser.add_argument("metrics", nargs="+")
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", nargs="*", default=[], help="as `sltool prepare --set`")
    options = parser.parse_args()
    extra = ["--set", *options.set] if options.set else []
    found = []
    for seed in range(options.seeds):
        found.append(figures(options.dataset, options.source, options.metrics, seed, extra))
        print(f"seed {seed}: {found[-1]}", file=sys.stderr)
    for metric in options.metrics:
        for run in ("all", "C"):
            values = [seed[run][metric] for seed in found]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            print(f"{metric:<10} {run:<4} {statistics.mean(values):.4f} +- {spread:.4f}")


if __name__ == "__main__":
    main()
