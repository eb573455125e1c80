"""How fast `prepare` decodes, against a bare pool of Pillow; and its memory at 1,000 and 10,000.

The bare pool (processes by fork, chunks of 64) opens, converts and resizes each image and drops it.
`prepare` also scans the folder, starts its own workers, carries the pixels to one process and
writes prepared.h5 through to the disk. Each measurement is a process of its own; the two arms
take turns. Made-up X-rays: 512x420 grey PNGs to 224x224.

Speed is the median of bare wall time / prepare wall time; the same by processor time, of all
processes together, is disturbed less by other work on the machine.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from multiprocessing import forkserver, get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from sltool.machine import available_cpus
from tests.bench import Row

ROUNDS = 3
SIDE = 224
DISTINCT = 100
ROOT = Path(__file__).resolve().parents[2]


def make_source(folder: Path, images: int) -> None:
    """Two class folders of grey PNGs; beyond `DISTINCT` the same bytes under other names."""
    rng = np.random.default_rng(0)
    for name in ("COVID", "non-COVID"):
        (folder / name).mkdir(parents=True)
    made: list[Path] = []
    for image in range(images):
        path = folder / ("COVID", "non-COVID")[image % 2] / f"image{image:05d}.png"
        if image < DISTINCT:
            smooth = Image.fromarray(rng.integers(0, 255, (12, 10), dtype=np.uint8))
            bone = np.asarray(smooth.resize((420, 512), Image.Resampling.BICUBIC), dtype=np.float32)
            noisy = bone + rng.normal(0, 4, bone.shape)
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path)
            made.append(path)
        else:
            path.hardlink_to(made[image % DISTINCT])


def bare_one(path: Path) -> None:
    with Image.open(path) as image:
        np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def bare(source: Path, workers: int) -> float:
    """Seconds of the bare pool."""
    paths = sorted(source.rglob("*.png"))
    started = time.perf_counter()
    with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
        for _ in pool.map(bare_one, paths, chunksize=64):
            pass
    return time.perf_counter() - started


def prepared(source: Path, workers: int) -> float:
    """Seconds of `prepare`, without the start of Python and the making of study.yaml."""
    from sltool.datasets.covid_ct import CovidCT
    from sltool.progress import Silent
    from sltool.site.fingerprint import fingerprint
    from sltool.site.prepare import prepare
    from sltool.study.layout import StudyFolder
    from sltool.study.schema import Study

    dataset = CovidCT(CovidCT.Settings(size=SIDE))
    study = Study.model_validate(
        {
            "id": "0" * 32,
            "dataset": {"name": "covid-ct"},
            "samples": dataset.samples().model_dump(),
            "model": {"name": "vgg19"},
        }
    )
    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        started = time.perf_counter()
        prepare(
            StudyFolder(Path(folder)),
            study,
            dataset,
            source,
            Silent(),
            workers,
            "bench",
            fingerprint(source),
        )
        return time.perf_counter() - started


def measure(arm: str, source: Path, workers: int) -> dict[str, Any]:
    """Run one arm in a fresh process."""
    words = [sys.executable, "-m", "tests.bench.bench_prepare", "--arm", arm, "--source", source]
    done = subprocess.run(
        [*map(str, words), "--workers", str(workers)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def run_arm(arm: str, source: Path, workers: int) -> None:
    if arm == "prepare":
        import_module("sltool.datasets.covid_ct")
        import_module("sltool.site.prepare")
    before = resource.getrusage(resource.RUSAGE_SELF)
    seconds = (bare if arm == "bare" else prepared)(source, workers)
    # Only a fork server that has ended counts, with the workers, among our children.
    forkserver._forkserver._stop()  # type: ignore[attr-defined]
    own, children = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    cpu = own.ru_utime + own.ru_stime - before.ru_utime - before.ru_stime
    cpu += children.ru_utime + children.ru_stime
    peaks = {"own_mib": own.ru_maxrss / 1024, "worker_mib": children.ru_maxrss / 1024}
    print(json.dumps({"seconds": seconds, "cpu": cpu, **peaks}))


def rows() -> Iterator[Row]:
    for images, bar in ((1_000, None), (10_000, 0.85)):
        yield compare(images, bar)


def compare(images: int, bar: float | None) -> Row:
    workers = available_cpus()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        make_source(source, images)
        pairs = [
            (measure("bare", source, workers), measure("prepare", source, workers))
            for _ in range(ROUNDS)
        ]
    rate = images / median(pair[1]["seconds"] for pair in pairs)
    time_ratio, cpu_ratio = (
        median(bare[key] / ours[key] for bare, ours in pairs) for key in ("seconds", "cpu")
    )
    own, worker = (max(pair[1][key] for pair in pairs) for key in ("own_mib", "worker_mib"))
    return Row(
        f"prepare against a bare pool of Pillow, {images:,} images",
        f"{time_ratio:.2f} of its speed ({rate:.0f} images/s), {cpu_ratio:.2f} by processor time; "
        f"peak memory {own:.0f} MiB, a worker {worker:.0f} MiB",
        "stated" if bar is None else f">= {bar}",
        None if bar is None else time_ratio >= bar,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--arm", choices=["bare", "prepare"], required=True)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--workers", type=int, required=True)
    arguments = parser.parse_args()
    run_arm(arguments.arm, arguments.source, arguments.workers)
