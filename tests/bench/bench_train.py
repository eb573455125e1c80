"""Training: steady epochs against a bare loop, sites, rows, start, and shards taken in beside."""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import nn

from sltool.models.base import build
from sltool.models.precision import choose_precision
from sltool.progress import Silent
from sltool.server.intake.queue import Queue
from sltool.server.store import Store
from sltool.server.training.data import TrainingData
from sltool.server.training.distributed import Ranks
from sltool.server.training.objective import Objective
from sltool.server.training.optimizer import make_optimizer
from sltool.server.training.run import train
from sltool.server.training.run_settings import RunOptions
from sltool.server.training.site_control import SiteControl
from sltool.server.training.trainer import Trainer
from sltool.study.layout import StudyFolder
from sltool.study.schema import Study
from tests.bench import ROUNDS, Row, in_turn, seconds
from tests.bench.made_up import accepted, make_study, ship

CPU = torch.device("cpu")
MLP = {"name": "mlp"}
CNN = {"name": "covid-cnn"}
VGG = {"name": "vgg19"}
START = """
import os, sys
sys.argv[1:] = ["server-train", "--max-epochs", "1"]
from sltool.cli.main import main
import sltool.server.training.{module} as module
real = module.{kind}.{method}
def first(*args):
    real(*args)
    os._exit(0)
module.{kind}.{method} = first
main()
"""
BATCH = START.format(module="loader", kind="FeatureLoader", method="features")
STEP = START.format(module="trainer", kind="Trainer", method="_train_step")


def rows() -> Iterator[Row]:
    for what, bar, checkpoints, model, shape, batch, samples, classes in (
        ("COVID CNN, batch 64, 10k samples", 0.95, True, CNN, (1, 64, 64), 64, 10_000, True),
        ("cholesterol MLP, batch 2048, 326,032 rows", 0.90, True, MLP, (7,), 2048, 326_032, False),
        ("VGG19 server half 112x112, batch 16", 0.98, False, VGG, (1, 224, 224), 16, 64, True),
    ):
        with tempfile.TemporaryDirectory() as root:
            names = ("no", "yes") if classes else ()
            folder, study = make_study(Path(root), model, shape, batch, ["A"], names)
            queue = accepted(folder, study, {"A": samples})
            yield against_bare(what, bar, checkpoints, folder, study, queue)
    yield first_batch()
    yield many_sites()
    yield many_rows()
    yield while_taking()


class Interleaved(Silent):
    """After each epoch of a run, one epoch of the bare loop; both timed."""

    def __init__(self, bare: Callable[[], object], history: Callable[[], float] | None) -> None:
        self.pairs: list[tuple[float, float]] = []
        self._bare = bare
        self._history = history
        self._mark = time.perf_counter()

    def detail(self, text: str) -> None:
        if "train_loss" in text:
            ours = time.perf_counter() - self._mark
            if self._history:
                ours = float(text.rsplit("seconds ", 1)[1])
            self.pairs.append((ours, seconds(self._bare)))
            self._mark = time.perf_counter()


def against_bare(
    what: str, bar: float, checkpoints: bool, folder: StudyFolder, study: Study, queue: Queue
) -> Row:
    """Whole epochs with checkpoint, history and log, if `checkpoints`; else their training."""
    both = Interleaved(bare_loop(study, queue.store), None if checkpoints else lambda: 0.0)
    train(folder, study, queue.store, RunOptions("bench", max_epochs=ROUNDS + 1), CPU, both)
    pairs = both.pairs[1:]
    ratio = statistics.median(bare / ours for ours, bare in pairs)
    ours = statistics.median(ours for ours, _ in pairs)
    part = "" if checkpoints else " (training alone)"
    measured = f"{ratio:.3f} of the bare loop's speed, {ours:.2f} s an epoch{part}"
    return Row(f"{what}: steady epochs", measured, f">= {bar}", ratio >= bar)


def bare_loop(study: Study, store: Store) -> Callable[[], object]:
    """One epoch over tensors in RAM: same network, batch, optimiser and precision."""
    samples = store.samples("train")
    features = samples.features.float()
    if features.dim() == 4:
        features = features.contiguous(memory_format=torch.channels_last)
    labels = samples.labels
    network: nn.Module = build(study, 0).server_network
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    precision = choose_precision("auto", network, CPU)
    optimizer = make_optimizer(network, study.training)
    objective = Objective(study.samples.labels, study.training)

    def epoch() -> None:
        network.train()
        order = torch.randperm(len(labels))
        for part in torch.split(order, study.training.batch_size):
            with precision.autocast():
                outputs = network(features[part])
            loss = objective.loss(outputs.float(), labels[part])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    return epoch


def first_batch() -> Row:
    with tempfile.TemporaryDirectory() as root:
        sites = [f"S{n}" for n in range(20)]
        folder, study = make_study(Path(root), CNN, (1, 64, 64), 64, sites)
        accepted(folder, study, dict.fromkeys(sites, 500))

        def start(code: str) -> None:
            shutil.rmtree(folder.runs, ignore_errors=True)
            run_python(code, Path(root))

        def torch_alone() -> float:
            return seconds(lambda: run_python("import torch, os; os._exit(0)", Path(root)))

        ours, alone, ratio = in_turn(lambda: seconds(lambda: start(BATCH)), torch_alone)
        step, _, _ = in_turn(lambda: seconds(lambda: start(STEP)), torch_alone, rounds=3)
    return Row(
        "first batch after server-train starts on 20 accepted shards",
        f"{ratio:.2f} times python + import torch ({ours:.2f} s, {alone:.2f} s; "
        f"its step is done after {step:.2f} s)",
        "<= 1.5",
        ratio <= 1.5,
    )


def run_python(code: str, folder: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        check=True,
        capture_output=True,
    )


def trainer_for(folder: StudyFolder, study: Study, rows_of: dict[str, int]) -> Trainer:
    store = accepted(folder, study, rows_of).store
    network = build(study, 0).server_network
    trainer = Trainer(
        network,
        Objective(study.samples.labels, study.training),
        study.training,
        0,
        choose_precision("auto", network, CPU),
        SiteControl(),
        Ranks(),
    )
    trainer.set_data(TrainingData(store.samples("train"), store.samples("validation")))
    return trainer


def epochs_of(trainers: list[Trainer]) -> list[float]:
    """The median epoch of each, trained in turn."""
    for trainer in trainers:
        trainer.run_epoch(lambda: False)
    times = [
        [seconds(partial(trainer.run_epoch, lambda: False)) for trainer in trainers]
        for _ in range(ROUNDS)
    ]
    return [statistics.median(column) for column in zip(*times, strict=True)]


def many_sites() -> Row:
    total, counts = 80_000, (1, 10, 100)
    with tempfile.TemporaryDirectory() as root:
        trainers = []
        for count in counts:
            sites = [f"S{n}" for n in range(count)]
            folder, study = make_study(Path(root) / str(count), MLP, (7,), 256, sites, ())
            trainers.append(trainer_for(folder, study, dict.fromkeys(sites, total // count)))
        times = epochs_of(trainers)
    spread = max(times) / min(times) - 1
    by_setting = ", ".join(
        f"{n} sites {seconds:.3f} s" for n, seconds in zip(counts, times, strict=True)
    )
    return Row(
        "epoch time by sites, 80,000 rows",
        f"{spread:.1%} apart: {by_setting}",
        "5 %",
        spread <= 0.05,
    )


def many_rows() -> Row:
    sizes = (10_000, 40_000, 160_000)
    with tempfile.TemporaryDirectory() as root:
        trainers = []
        for size in sizes:
            folder, study = make_study(Path(root) / str(size), MLP, (7,), 256, ["A"], ())
            trainers.append(trainer_for(folder, study, {"A": size}))
        times = epochs_of(trainers)
    costs = [seconds / size * 1e6 for seconds, size in zip(times, sizes, strict=True)]
    spread = max(costs) / min(costs) - 1
    by_setting = ", ".join(
        f"{size:,} rows {cost:.2f} us" for size, cost in zip(sizes, costs, strict=True)
    )
    return Row("cost of a row by rows", f"{spread:.1%} apart: {by_setting}", "10 %", spread <= 0.10)


class Epochs(Silent):
    """Times epochs: `QUIET` of them, then those while the next shard is taken in, and so on."""

    QUIET = 15

    def __init__(self, shards: list[Path], inbox: Path) -> None:
        self.quiet: list[float] = []
        self.busy: list[list[float]] = []
        self._shards = shards
        self._inbox = inbox
        self._taking = False
        self._mark = time.perf_counter()

    def detail(self, text: str) -> None:
        if text.startswith("accepted"):
            self._taking = False
            if not self._shards:
                os.kill(os.getpid(), signal.SIGTERM)
        if "train_loss" in text:
            now = time.perf_counter()
            (self.busy[-1] if self._taking else self.quiet).append(now - self._mark)
            if not self._taking and self._shards and len(self.quiet) % self.QUIET == 0:
                shutil.move(self._shards.pop(), self._inbox)
                self._taking = True
                self.busy.append([])
            self._mark = time.perf_counter()


def while_taking() -> Row:
    """Epochs while shards of 80 MB are taken in, one at a time, against those between.

    The shards are of the test split, so that epochs keep their size.
    """
    sites = ["B", "C", "D", "E"]
    with tempfile.TemporaryDirectory() as root:
        folder, study = make_study(Path(root), CNN, (1, 64, 64), 64, ["A", *sites])
        queue = accepted(folder, study, {"A": 1024})
        ship(folder, study, dict.fromkeys(sites, 40_000), "test")
        aside = [shard.rename(folder.root / shard.name) for shard in folder.inbox.glob("*.h5")]
        watch = Epochs(aside, folder.inbox)
        train(folder, study, queue.store, RunOptions("bench", watch=True), CPU, watch)
    quiet = statistics.median(watch.quiet[Epochs.QUIET // 2 :])
    busy = statistics.median(epoch for shard in watch.busy for epoch in shard)
    took = statistics.median(sum(shard) for shard in watch.busy)
    slower = busy / quiet - 1
    return Row(
        "an epoch while a shard of 80 MB is taken in (--watch), four in turn",
        f"{slower:+.1%} ({quiet:.2f} s quiet, {busy:.2f} s during; {took:.0f} s for a shard)",
        "<= +10 %",
        slower <= 0.10,
    )
