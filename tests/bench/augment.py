"""Views made at the sites against augmentation at the server, at equal epochs, with bytes shipped.

    python -m tests.bench.augment covid-ct --views 1 4 20 --seeds 3 --epochs 60 --device cuda
    python -m tests.bench.augment fracatlas --views 1 4 8 --seeds 3 --device cuda

Prints a table of the validation samples (which choose the settings of the recipes; the test samples
are not looked at), at the epoch of the lowest validation loss.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from sltool.experiments.trial import Trial, TrialSettings
from sltool.files import read_csv
from sltool.machine import available_cpus, pick_device
from sltool.progress import Silent
from sltool.registry import load_plugins
from sltool.server.intake.lock import only_server
from sltool.server.training.run import train
from sltool.server.training.run_settings import RunOptions
from sltool.site.division import Division
from sltool.study.schema import FeatureAugment
from tests.conftest import DATA, ROOT

SOURCES = {
    "covid-ct": DATA / "covid-ct-sao-paulo",
    "fracatlas": DATA / "fracatlas",
    "cifar10": DATA / "cifar-10-batches-bin",
}
GEOMETRY = {"flip": 0.5, "shift": 0.1, "crop": 0.2}
ARMS: dict[str, dict[str, float]] = {
    "none": {},
    "flip": {"flip": 0.5},
    "flip, shift, crop": GEOMETRY,
    "erase": {"erase": 0.25},
    "mixup": {"mixup": 0.2},
    "cutmix": {"cutmix": 1.0},
    "flip, shift, crop, erase": {**GEOMETRY, "erase": 0.25},
    "flip, shift, crop, mixup": {**GEOMETRY, "mixup": 0.2},
    "flip, shift, crop, cutmix": {**GEOMETRY, "cutmix": 1.0},
}


@dataclass(frozen=True)
class Measured:
    """One training: validation accuracy in % and loss, bytes shipped, seconds per epoch."""

    accuracy: float
    loss: float
    bytes: int
    seconds: float


def main() -> None:
    options = _options()
    load_plugins([ROOT / "plugins" / "fracatlas.py"])
    print("| views | at the server | accuracy % | loss | shipped | s/epoch |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    for views in options.views:
        measured: dict[str, list[Measured]] = {name: [] for name in options.arms}
        for seed in range(options.seeds):
            for name, result in _train_arms(options, views, seed).items():
                measured[name].append(result)
        for name, results in measured.items():
            print(_line(views, name, results), flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", choices=SOURCES)
    parser.add_argument("--source", type=Path, help="default: in the folder of test data")
    parser.add_argument("--recipe", default="best")
    parser.add_argument("--views", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="default: the recipe's")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--device", default="auto")
    return parser.parse_args()


def _train_arms(options: argparse.Namespace, views: int, seed: int) -> dict[str, Measured]:
    settings = [*options.set, f"encoding.views={views}"]
    if options.epochs:
        settings.append(f"training.epochs={options.epochs}")
    source = options.source or SOURCES[options.dataset]
    setup = TrialSettings(
        options.dataset, options.recipe, source, tuple(settings), Division(), seed
    )
    device = pick_device(options.device)
    with tempfile.TemporaryDirectory() as root:
        trial = Trial(Path(root), setup, device, available_cpus(), Silent())
        data = trial.feature_maps
        shipped = sum(path.stat().st_size for path in data.folder.outbox.rglob("*.h5"))
        found = {}
        for index, name in enumerate(options.arms):
            augment = FeatureAugment.model_validate(ARMS[name])
            training = data.study.training.model_copy(update={"augment": augment})
            study = data.study.model_copy(update={"training": training})
            run = RunOptions(f"arm-{index}", seed=seed)
            started = time.monotonic()
            with only_server(data.folder):
                train(data.folder, study, data.store, run, device, Silent())
            seconds = (time.monotonic() - started) / training.epochs
            found[name] = _measured(data.folder.run(run.run).history, shipped, seconds)
    return found


def _measured(history: Path, shipped: int, seconds: float) -> Measured:
    rows = read_csv(history, ("validation_loss", "validation_accuracy"), "")
    best = min(rows, key=lambda row: float(row["validation_loss"]))
    accuracy, loss = (float(best[f"validation_{key}"]) for key in ("accuracy", "loss"))
    return Measured(100 * accuracy, loss, shipped, seconds)


def _line(views: int, name: str, results: list[Measured]) -> str:
    accuracies = [result.accuracy for result in results]
    spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
    loss = statistics.mean(result.loss for result in results)
    shipped = statistics.mean(result.bytes for result in results) / 1e6
    seconds = statistics.mean(result.seconds for result in results)
    return (
        f"| {views} | {name} | {statistics.mean(accuracies):.1f} ± {spread:.1f} | {loss:.3f} | "
        f"{shipped:,.0f} MB | {seconds:.2f} |"
    )


if __name__ == "__main__":
    main()
