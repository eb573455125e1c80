"""`evaluate`: a run's best network on the samples of a split, or on their studies or patients."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from sltool.errors import StageOrderError, StudyMismatchError
from sltool.files import write_json, write_text
from sltool.layout import RunFolder, StudyFolder
from sltool.metrics import Array, check_metrics, compute, metrics_for
from sltool.models.base import outline
from sltool.server.levels import Level, gather, group_numbers
from sltool.server.run import find_run, run_settings
from sltool.server.store import Samples, Store
from sltool.server.task import Task
from sltool.server.trainer import predict
from sltool.study import Study


@dataclass(frozen=True)
class Evaluation:
    """The figures of one run on one split; `samples` counts what the level says.

    `by_site` has the same figures for each site's samples alone; `notes` and each site's `notes`
    say which metrics are not defined, and why.
    """

    run: str
    split: str
    level: Level
    samples: int
    metrics: dict[str, float | None]
    by_site: dict[str, dict[str, Any]]
    notes: list[str]


def evaluate(
    folder: StudyFolder,
    study: Study,
    store: Store,
    name: str,
    split: str,
    level: Level,
    metrics: list[str],
    sites: Sequence[str],
    device: torch.device,
) -> Evaluation:
    """Predict, write `predictions.csv` and `metrics.json`, and return the figures.

    Args:
        level: what is scored: every image, every study (examination) or every patient; see
            `sltool.server.levels`. `predictions.csv` has the images in any case.
        metrics: names; none means all for the study's kind of labels.
        sites: whose samples; none means all, whatever the run was trained on.

    Raises:
        UnknownNameError: no run has this name.
        StageOrderError: the run has no model, or no shard of that split has arrived.
        StudyMismatchError: the run belongs to another encoding or model.
        UsageError: the samples do not have that level.
    """
    run = find_run(folder, name)
    _check_run(run, study, store)
    samples = store.samples(split, sites)
    if not len(samples):
        raise StageOrderError(
            f"no {split} sample has arrived", where=store.folder, hint="ship the sites' shards"
        )
    kind = study.samples.labels.kind
    names = metrics or metrics_for(kind)
    check_metrics(names, kind)
    groups = group_numbers(samples.groups, level, study.dataset.name)
    y_pred = _predict(run, study, samples, device)
    write_predictions(run, split, study, samples, y_pred)
    labels = samples.labels.numpy().astype(float)

    def score(part: slice | NDArray[np.bool_]) -> dict[str, Any]:
        of_part = None if groups is None else np.unique(groups[part], return_inverse=True)[1]
        y_true, scores = gather(kind, labels[part], y_pred[part], of_part)
        figures = compute(names, y_true, scores)
        notes = _undefined(figures, y_true, study)
        return {"samples": len(y_true), "metrics": figures, "notes": notes}

    by_site = {site: score(samples.site == n) for n, site in enumerate(samples.sites)}
    result = Evaluation(name, split, level, **score(slice(None)), by_site=by_site)
    _write_metrics(run, result)
    return result


def _undefined(figures: dict[str, float | None], y_true: Array, study: Study) -> list[str]:
    """A note on the metrics that are not defined for these samples."""
    names = " ".join(name for name, value in figures.items() if value is None)
    if not names:
        return []
    classes = study.samples.labels.classes
    present = [f"'{classes[int(number)]}'" for number in np.unique(y_true)] if classes else []
    why = f", where all are of the class {' '.join(present)}" if len(present) < len(classes) else ""
    return [f"not defined for these {len(y_true)} samples{why}: {names}"]


def _check_run(run: RunFolder, study: Study, store: Store) -> None:
    settings = run_settings(run)
    for key, now in (
        ("encoding", store.encoding),
        ("model", study.model.model_dump(mode="json")),
    ):
        if settings[key] != now:
            raise StudyMismatchError(
                f"run '{run.name}' was trained with another {key}",
                where=run.settings,
                expected=f"{now}, not {settings[key]}",
                hint="train again, or bring back the study.yaml of that run",
            )


def _predict(run: RunFolder, study: Study, samples: Samples, device: torch.device) -> Array:
    network = outline(study).server_network
    network.load_state_dict(load_file(run.model), assign=True)
    task = Task(study.samples.labels, study.training)
    return task.predict(predict(network.to(device), samples, device)).numpy()


def write_predictions(
    run: RunFolder, split: str, study: Study, samples: Samples, y_pred: Array
) -> None:
    """Publish `predictions.csv`: `y_pred` is (N,), or (N, classes) for several classes."""
    columns = ["y_pred"]
    if y_pred.ndim == 2:
        columns = [f"y_pred_{name}" for name in study.samples.labels.classes]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["pseudonym", "group", "site", "y_true", *columns])
    y_true = samples.labels.tolist()
    for number in range(len(samples)):
        writer.writerow(
            [
                samples.pseudonyms[number].decode("ascii"),
                samples.groups[number].decode("ascii"),
                samples.sites[samples.site[number]],
                y_true[number],
                *np.atleast_1d(y_pred[number]).tolist(),
            ]
        )
    write_text(run.predictions(split), text.getvalue())


def _write_metrics(run: RunFolder, result: Evaluation) -> None:
    """Enter the figures into `metrics.json`, beside those of other splits and levels."""
    known = read_metrics(run)
    entry = metrics_entry(result.split, result.level)
    known[entry] = {
        "samples": result.samples,
        "metrics": result.metrics,
        "by_site": result.by_site,
    }
    write_json(run.metrics, known)


def read_metrics(run: RunFolder) -> dict[str, dict[str, Any]]:
    """`metrics.json`: entry -> {samples, metrics}; {} where nothing was evaluated.

    `metrics_entry` says what an entry is called.
    """
    if not run.metrics.is_file():
        return {}
    known: dict[str, dict[str, Any]] = json.loads(run.metrics.read_text(encoding="utf-8"))
    return known


def metrics_entry(split: str, level: Level = "image") -> str:
    """The key in `metrics.json`: 'test' for each image, 'test-study', 'test-patient'."""
    return split if level == "image" else f"{split}-{level}"
