"""The six commands as processes, from a folder of slices to figures, against one bare process."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from statistics import median
from typing import Any

from safetensors import safe_open

from tests.bench import ROUNDS, Row
from tests.bench.bare_stages import BATCH, EPOCHS, FILTERS
from tests.conftest import DATA, ROOT

BAR = 1.1
SOURCE = DATA / "covid-ct-sao-paulo"
STAGES = {
    "prepare": [
        "covid-ct",
        *("--source", str(SOURCE)),
        *("--set", f"model.filters={list(FILTERS)}"),
        *("--set", "encoding.views=1"),
        *("--set", f"training.epochs={EPOCHS}"),
        *("--set", f"training.batch_size={BATCH}"),
    ],
    "partition": ["--ratios", "7:2:1"],
    "client-encode": [],
    "ship": [],
    "server-train": [],
    "evaluate": ["--metrics", "accuracy", "--json"],
}
# These need no neural network, and are run often, by hand or by cron.
QUICK = (["ship"], ["status"], ["queue", "verify", "server/accepted/A-train-00000.h5"])
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Took:
    """One command: wall and processor seconds, of all its processes together, and its output."""

    wall: float
    cpu: float
    out: str = ""

    def __add__(self, other: Took) -> Took:
        return Took(self.wall + other.wall, self.cpu + other.cpu, other.out)


def rows() -> Iterator[Row]:
    if not SOURCE.is_dir():
        yield Row("the six commands against one bare process", f"no data at {SOURCE}")
        return
    # Counts the orphaned child processes of a command as well.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    bare, stages, quick = [], [], []
    for _ in range(ROUNDS):
        bare.append(run(ROOT, "tests.bench.bare_stages", str(SOURCE)))
        with tempfile.TemporaryDirectory() as folder:
            stages.append(
                {name: sltool(Path(folder), name, *words) for name, words in STAGES.items()}
            )
            quick.append([sltool(Path(folder), *words) for words in QUICK])
            check_alike(json.loads(bare[-1].out), stages[-1]["evaluate"], Path(folder))
    yield whole(bare, stages)
    yield Row(
        "commands that need no network, after that",
        ", ".join(
            f"`{' '.join(words[:2])}` {median(run[n].wall for run in quick):.2f} s"
            for n, words in enumerate(QUICK)
        ),
    )


def whole(bare: list[Took], stages: list[dict[str, Took]]) -> Row:
    ours = [sum(run.values(), Took(0, 0)) for run in stages]
    wall, cpu = (
        median(getattr(run, kind) for run in ours) / median(getattr(run, kind) for run in bare)
        for kind in ("wall", "cpu")
    )
    each = ", ".join(f"{name} {median(run[name].wall for run in stages):.1f}" for name in STAGES)
    return Row(
        f"the six commands on {SOURCE.name} (16 channels, {EPOCHS} epochs, batch {BATCH}) against "
        "one bare float32 process",
        f"{wall:.2f} of its time ({median(run.wall for run in ours):.1f} s, bare "
        f"{median(run.wall for run in bare):.1f} s: {each}); {cpu:.2f} of its processor time "
        f"({median(run.cpu for run in ours):.1f} s, {median(run.cpu for run in bare):.1f} s)",
        f"<= {BAR}",
        wall <= BAR,
    )


def sltool(folder: Path, *words: str) -> Took:
    return run(folder, "sltool", *words)


def run(folder: Path, module: str, *words: str) -> Took:
    """Run a module as a process and wait for all that it started."""
    before, started = children_cpu(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", module, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        text=True,
    )
    wall = time.perf_counter() - started
    try:
        while True:
            os.wait()
    except ChildProcessError:
        return Took(wall, children_cpu() - before, done.stdout)


def children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def check_alike(bare: dict[str, Any], evaluated: Took, folder: Path) -> None:
    """Both must have trained networks of the same size, better than chance."""
    with safe_open(folder / "server" / "runs" / "default" / "model.safetensors", "np") as file:
        tensors = [(name, file.get_slice(name).get_shape()) for name in file.keys()]  # noqa: SIM118
    trained = [shape for name, shape in tensors if "running" not in name and "tracked" not in name]
    weights = sum(prod(shape) for shape in trained)
    assert weights == bare["weights"], (weights, bare["weights"])
    accuracy = json.loads(evaluated.out)["metrics"]["accuracy"]
    assert min(accuracy, bare["accuracy"]) > 0.85, (accuracy, bare["accuracy"])
