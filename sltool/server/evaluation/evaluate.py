"""`evaluate`: the figures of a run's best network per image, examination or patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypedDict

from sltool.errors import StageOrderError, StudyMismatchError, UnknownNameError
from sltool.files import read_json, write_csv, write_json
from sltool.metrics import Array, compute, metrics_for
from sltool.randomised_response import RandomisedResponse
from sltool.server.evaluation.aggregate import aggregate, group_indices
from sltool.server.store import Store, StoredSamples
from sltool.server.training.run import find_run, run_settings
from sltool.study.layout import Level, Question, RunFolder, StudyFolder
from sltool.study.meaning import differences
from sltool.study.schema import SPLITS, Study

if TYPE_CHECKING:
    import torch


class Figures(TypedDict):
    """The keys of a question's figures that are read."""

    samples: int
    metrics: dict[str, float | None]


@dataclass(frozen=True)
class Scored:
    """What the figures of n images, examinations or patients were computed from.

    Attributes:
        y_true: (n,) labels.
        y_pred: (n,) or (n, classes) predictions.
        patients: (n,) the pseudonym of each patient.
    """

    y_true: Array
    y_pred: Array
    patients: NDArray[np.bytes_]


@dataclass(frozen=True)
class Evaluation:
    """The figures of one run on the samples of one question.

    Attributes:
        samples: the count of images, examinations or patients, as the level says.
        by_site: the same figures for the samples of each site, with notes of their own.
        notes: which metrics are not defined, and why.
        absent: the sites that have sent samples, but none for this question.
        scored, scored_by_site: the labels and predictions behind the figures.
        corrected: accuracy and AUROC against true labels, as estimated where the shipped labels
            are randomised responses.
    """

    run: str
    samples: int
    metrics: dict[str, float | None]
    by_site: dict[str, dict[str, Any]]
    notes: list[str]
    absent: list[str]
    scored: Scored
    scored_by_site: dict[str, Scored]
    corrected: dict[str, float]


def evaluate(
    folder: StudyFolder,
    study: Study,
    store: Store,
    name: str,
    question: Question,
    device: torch.device,
) -> Evaluation:
    """Predict, write the question's predictions and figures, and return the figures.

    Args:
        question: its level is what is scored: images, examinations ('study') or patients; see
            `sltool.server.evaluation.aggregate`. Predictions are written per image in any case.
            All sites means all that have sent samples, also those the run was not trained on.

    Raises:
        UnknownNameError: no run has this name.
        StageOrderError: the run has no model, or no shard of that split has arrived.
        StudyMismatchError: the run was trained with another encoding or model.
        UsageError: the dataset does not have that level.
    """
    run = find_run(folder, name)
    check_run(run, study, store)
    samples = _arrived_samples(store, question)
    kind = study.samples.labels.kind
    names = metrics_for(kind)
    groups = group_indices(samples.groups, question.level, study.dataset.name)
    y_pred = predict_samples(run, study, samples, device)
    write_predictions(run.predictions(question), study, samples, y_pred)
    labels = samples.labels.numpy().astype(float)

    patients = np.char.partition(samples.groups, b"/")[:, 0]

    def score(part: slice | NDArray[np.bool_]) -> Scored:
        if groups is None:
            return Scored(labels[part], y_pred[part], patients[part])
        _, first, inverse = np.unique(groups[part], return_index=True, return_inverse=True)
        y_true, scores = aggregate(kind, labels[part], y_pred[part], inverse)
        return Scored(y_true, scores, patients[part][first])

    def figures(scored: Scored) -> dict[str, Any]:
        values = compute(names, scored.y_true, scored.y_pred)
        corrected = {} if groups is not None else _corrected(values, scored.y_true, study)
        notes = _undefined_notes(values, scored.y_true, study) + _response_notes(corrected, study)
        return {
            "samples": len(scored.y_true),
            "metrics": values,
            "notes": notes,
            "corrected": corrected,
        }

    everyone = score(slice(None))
    sites = {site: score(samples.site == index) for index, site in enumerate(samples.sites)}
    result = Evaluation(
        name,
        **figures(everyone),
        by_site={site: figures(scored) for site, scored in sites.items()},
        absent=sorted(set(question.sites or store.sites()) - sites.keys()),
        scored=everyone,
        scored_by_site=sites,
    )
    _write_metrics(run, question, result)
    return result


def score_samples(
    run: RunFolder, study: Study, store: Store, question: Question, device: torch.device
) -> tuple[StoredSamples, Array]:
    """The samples that the question is about, and their predictions as `write_predictions` takes.

    Raises:
        StageOrderError: no shard of that split has arrived.
    """
    samples = _arrived_samples(store, question)
    return samples, predict_samples(run, study, samples, device)


def _arrived_samples(store: Store, question: Question) -> StoredSamples:
    samples = store.samples(question.split, question.sites)
    if not len(samples):
        site_names = f" of {' '.join(question.sites)}" if question.sites else ""
        raise StageOrderError(
            f"no {question.split} sample{site_names} has arrived",
            where=store.folder,
            hint="run `sltool ship` at the sites",
        )
    return samples


def _undefined_notes(figures: dict[str, float | None], y_true: Array, study: Study) -> list[str]:
    """A note on the metrics that are not defined for these samples; [] if all are."""
    names = " ".join(name for name, value in figures.items() if value is None)
    if not names:
        return []
    classes = study.samples.labels.classes
    present = [f"'{classes[int(index)]}'" for index in np.unique(y_true)] if classes else []
    why = f", where all are of the class {' '.join(present)}" if len(present) < len(classes) else ""
    what = "this sample" if len(y_true) == 1 else f"these {len(y_true)} samples"
    return [f"not defined for {what}{why}: {names}"]


def _corrected(figures: dict[str, float | None], y_true: Array, study: Study) -> dict[str, float]:
    """Accuracy and AUROC against true labels, estimated from those against the responses."""
    response = _response(study)
    if response is None:
        return {}
    corrected = {}
    if (accuracy := figures.get("accuracy")) is not None:
        corrected["accuracy"] = response.true_accuracy(accuracy)
    if response.classes == 2 and (auroc := figures.get("auroc")) is not None:
        corrected["auroc"] = response.true_auroc(auroc, float(np.mean(y_true)))
    return corrected


def _response_notes(corrected: dict[str, float], study: Study) -> list[str]:
    """A note on the labels, if they are randomised responses."""
    response = _response(study)
    if response is None:
        return []
    values = ", ".join(f"{name} {value:.4f}" for name, value in corrected.items())
    return [
        f"the labels are randomised responses (epsilon {response.epsilon:g}: "
        f"{1 - response.keep:.1%} are wrong), and every metric is against them"
        + (f"; estimated against the true labels: {values}" if values else "")
    ]


def _response(study: Study) -> RandomisedResponse | None:
    epsilon = study.encoding.label_epsilon
    return (
        None if epsilon is None else RandomisedResponse(len(study.samples.labels.classes), epsilon)
    )


def ask(study: Study, split: str, level: Level, sites: Sequence[str]) -> Question:
    """The question about the samples of `sites`; naming all sites is the same as naming none.

    Raises:
        UnknownNameError: the study has no site of that name, or the samples no such split.
        UsageError: a site left the study.
    """
    if split not in SPLITS:
        raise UnknownNameError.of("split", split, SPLITS)
    study.check_taking_part(sites)
    named, present = set(sites), study.sites.keys() - study.left_sites()
    return Question(split, level, () if named >= present else tuple(sorted(named)))


def check_run(
    run: RunFolder, study: Study, store: Store, meaning: dict[str, Any] | None = None
) -> None:
    """Check that the run was trained with the study's current encoding and model.

    Args:
        meaning: `Study.meaning`, to name the key that differs if the run's record has its own.

    Raises:
        StudyMismatchError: it was not.
        StageOrderError: the run has no model.
        BadDataError: its record is damaged.
    """
    settings = run_settings(run)
    for key, now in (
        ("encoding", store.encoding),
        ("model", study.model.model_dump(mode="json")),
    ):
        if settings[key] != now:
            before = settings.get("meaning")
            facts = [
                f"{name} is {ours}, and was {theirs}"
                for name, ours, theirs in (
                    differences(meaning, before) if meaning and before else []
                )
            ]
            raise StudyMismatchError(
                f"run '{run.name}' was trained with another {key}"
                + (f": {'; '.join(facts)}" if facts else ""),
                where=run.settings,
                expected=f"{now}, not {settings[key]}",
                hint="train again, or restore the study.yaml of that run",
            )


def predict_samples(
    run: RunFolder, study: Study, samples: StoredSamples, device: torch.device
) -> Array:
    # Imported here: reading a run's figures works without torch, which is slow to import.
    from sltool.models.base import load_weights, outline
    from sltool.server.training.objective import Objective
    from sltool.server.training.trainer import predict

    network = outline(study).server_network
    hint = f"train again with `sltool server-train --run {run.name} --force`"
    load_weights(network, run.model, "the run's model", hint)
    objective = Objective(study.samples.labels, study.training, study.encoding.label_epsilon)
    return objective.predict(predict(network.to(device), samples, device)).numpy()


def write_predictions(path: Path, study: Study, samples: StoredSamples, y_pred: Array) -> None:
    """Write a table of predictions; `y_pred` is (N,), or (N, classes) for several classes."""
    columns = ["y_pred"]
    if y_pred.ndim == 2:
        columns = [f"y_pred_{name}" for name in study.samples.labels.classes]
    predicted = y_pred.reshape(len(samples), -1).tolist()
    y_true = samples.labels.tolist()
    rows = (
        {
            "pseudonym": samples.pseudonyms[index].decode("ascii"),
            "group": samples.groups[index].decode("ascii"),
            "site": samples.sites[samples.site[index]],
            "y_true": y_true[index],
            **dict(zip(columns, predicted[index], strict=True)),
        }
        for index in range(len(samples))
    )
    write_csv(path, rows, ["pseudonym", "group", "site", "y_true", *columns])


def _write_metrics(run: RunFolder, question: Question, result: Evaluation) -> None:
    entry = {
        "split": question.split,
        "level": question.level,
        "sites": list(question.sites) or "all",
        "samples": result.samples,
        "metrics": result.metrics,
        "by_site": result.by_site,
        "corrected": result.corrected,
    }
    write_json(run.metrics(question), {question.name: entry})


def read_metrics(run: RunFolder, question: Question) -> Figures | None:
    """The figures of a question; None if the run was not evaluated on it.

    Raises:
        BadDataError: the file is damaged.
    """
    path = run.metrics(question)
    if not path.is_file():
        return None
    hint = f"delete the file and run `sltool evaluate --run {run.name}` again"
    by_question = read_json(path, dict[str, Figures], "the run's metrics", hint)
    return by_question.get(question.name)
