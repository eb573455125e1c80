"""`server-train`: one run from the store to the best server network."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import save

from sltool.errors import BadDataError, StageOrderError, StorageError, UsageError
from sltool.files import publish, write_json, write_text
from sltool.layout import RunFolder, StudyFolder
from sltool.models.base import build
from sltool.progress import Progress
from sltool.server.checkpoint import load_checkpoint
from sltool.server.store import Store
from sltool.server.task import Task
from sltool.server.trainer import Data, Trainer
from sltool.study import Study


@dataclass(frozen=True)
class Trained:
    """What `server-train` did; `again` where the run had been finished before."""

    run: str
    sites: list[str]
    epochs: int
    best_epoch: int
    samples: int
    seconds: float
    samples_per_second: float
    again: bool


def train(
    folder: StudyFolder,
    study: Study,
    store: Store,
    name: str,
    sites: Sequence[str],
    seed: int,
    device: torch.device,
    progress: Progress,
    force: bool,
) -> Trained:
    """Train run `name` on the shards of `sites` (none: all), or go on with it where it stopped.

    Raises:
        StageOrderError: no training samples of those sites have arrived.
        UsageError: the run was begun with other settings.
    """
    started = time.monotonic()
    run = folder.run(name)
    used = sorted(sites) if sites else store.sites()
    data = _data(store, used)
    task = Task(study.samples.labels, study.training.loss)
    network = build(study, seed, folder.root).server_network.to(device)
    trainer = Trainer(network, data, task, study.training, seed)
    _begin(run, _settings(study, store, used, seed), trainer, force)
    todo = study.training.epochs - trainer.epoch
    _note_missing(data, used, progress)
    with progress.bar(f"train {name}", study.training.epochs) as advance:
        advance(trainer.epoch)
        for _ in range(todo):
            row = trainer.run_epoch()
            trainer.checkpoint().save(run.checkpoint)
            _write_history(run, trainer.history)
            progress.detail(", ".join(f"{key} {value:.5g}" for key, value in row.items()))
            advance(1)
    if todo > 0 or not run.model.is_file():
        _publish_model(run, trainer)
    seconds = time.monotonic() - started
    return Trained(
        run=name,
        sites=used,
        epochs=trainer.epoch,
        best_epoch=trainer.best_epoch,
        samples=len(data.train),
        seconds=seconds,
        samples_per_second=max(todo, 0) * len(data.train) / seconds,
        again=todo <= 0,
    )


def _data(store: Store, sites: list[str]) -> Data:
    arrived = store.sites()
    for site in sites:
        if site not in arrived:
            raise StageOrderError(
                f"no training shard of site {site} has arrived",
                where=store.folder.parent / "inbox",
                hint=f"run `sltool client-encode --site {site}` and `sltool ship --site {site}`",
            )
    if not sites:
        raise StageOrderError(
            "no training shard has arrived yet",
            where=store.folder.parent / "inbox",
            hint="run `sltool client-encode` and `sltool ship` at the sites",
        )
    return Data(store.samples("train", sites), store.samples("validation", sites))


def _note_missing(data: Data, sites: list[str], progress: Progress) -> None:
    if not len(data.validation):
        progress.note(
            f"no validation sample of {', '.join(sites)}: the last epoch is taken as the best"
        )


def _settings(study: Study, store: Store, sites: list[str], seed: int) -> dict[str, Any]:
    return {
        "study": study.id,
        "encoding": store.encoding,
        "sites": sites,
        "seed": seed,
        "model": study.model.model_dump(mode="json"),
        "training": study.training.model_dump(mode="json"),
    }


def _begin(run: RunFolder, settings: dict[str, Any], trainer: Trainer, force: bool) -> None:
    """Start the run, or take up its checkpoint if it was begun with the same settings."""
    if force:
        run.checkpoint.unlink(missing_ok=True)
    elif run.settings.is_file():
        _check_same(run, json.loads(run.settings.read_text(encoding="utf-8")), settings)
    write_json(run.settings, settings)
    if run.checkpoint.is_file():
        trainer.restore(load_checkpoint(run.checkpoint))


def _check_same(run: RunFolder, before: dict[str, Any], now: dict[str, Any]) -> None:
    old, new = _flat(before), _flat(now)
    if new["training.schedule"] == "constant":
        # More epochs are a longer run of the same kind; with a schedule they are another run.
        old["training.epochs"] = new["training.epochs"]
    changed = [key for key in new if old.get(key) != new[key]]
    if changed:
        key = changed[0]
        raise UsageError(
            f"run '{run.name}' was begun with {key} {old.get(key)}, now it is {new[key]}",
            where=run.settings,
            hint="give another --run NAME, or --force to train it anew",
        )


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        path = f"{prefix}{key}"
        flat.update(_flat(value, f"{path}.") if isinstance(value, dict) else {path: value})
    return flat


def _write_history(run: RunFolder, history: list[dict[str, float]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_text(run.history, text.getvalue())


def _publish_model(run: RunFolder, trainer: Trainer) -> None:
    card = {"run": run.name, "best_epoch": str(trainer.best_epoch)}
    with publish(run.model) as part:
        part.write_bytes(save(trainer.best_network(), metadata=card))


def run_settings(run: RunFolder) -> dict[str, Any]:
    """The settings that a finished or unfinished run was begun with.

    Raises:
        StageOrderError: there is no such run.
        BadDataError: its record is damaged.
    """
    if not run.model.is_file():
        raise StageOrderError(
            f"run '{run.name}' has no trained model",
            where=run.root,
            hint=f"run `sltool server-train --run {run.name}` first",
        )
    try:
        settings: dict[str, Any] = json.loads(run.settings.read_text(encoding="utf-8"))
    except OSError as error:
        raise StorageError.of(error, run.settings, "read") from error
    except ValueError as error:
        raise BadDataError("the run's record is damaged", where=run.settings) from error
    return settings
