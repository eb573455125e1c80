"""Operating points: thresholds that are chosen on validation samples and reported on test samples.

A sample counts as positive if its score, the predicted probability of the class in question, is at
least the threshold. For a wanted sensitivity the threshold is the highest that reaches it on
validation, for a wanted specificity the lowest. It lies midway to the next score, so that the last
bit of a score, which depends on the machine, changes no decision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypedDict

from sltool.errors import BadDataError, UnknownNameError, UsageError
from sltool.files import read_json, sha256, write_json
from sltool.metrics import Array
from sltool.server.evaluation.aggregate import aggregate, group_indices
from sltool.server.evaluation.calibration import (
    calibrated,
    expected_calibration_error,
    fit_temperature,
)
from sltool.server.evaluation.evaluate import check_run, score_samples
from sltool.server.evaluation.proportions import UNDEFINED, Estimate, Proportion, predictive_values
from sltool.server.store import Store
from sltool.server.training.run import find_run
from sltool.study.layout import Question, RunFolder, StudyFolder
from sltool.study.schema import Labels, Study

if TYPE_CHECKING:
    import torch

WANTED = ("sensitivity", "specificity")


@dataclass(frozen=True)
class Target:
    """What a threshold has to reach on validation."""

    metric: Literal["sensitivity", "specificity"]
    wanted: float

    @classmethod
    def parse(cls, text: str) -> Target:
        """'sensitivity=0.95' or 'specificity=0.9'.

        Raises:
            UsageError: it is neither.
        """
        metric, _, number = text.partition("=")
        try:
            wanted = float(number)
        except ValueError:
            wanted = float("nan")
        if metric not in WANTED or not 0 < wanted <= 1:
            raise UsageError(
                f"'{text}' is not an operating point",
                expected="sensitivity=X or specificity=X, X above 0 and at most 1",
                hint="for example --at sensitivity=0.95",
            )
        return cls("sensitivity" if metric == "sensitivity" else "specificity", wanted)

    @property
    def name(self) -> str:
        return f"{self.metric}={self.wanted:g}"


@dataclass(frozen=True)
class PointFigures:
    """Figures of one threshold on some samples.

    Attributes:
        prevalence: the share of positives that `ppv` and `npv` are for.
    """

    samples: int
    positives: int
    prevalence: float
    sensitivity: Estimate
    specificity: Estimate
    ppv: Estimate
    npv: Estimate


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold, what it was chosen for, and its figures on test samples."""

    name: str
    metric: str
    wanted: float
    threshold: float
    validation: PointFigures
    test: PointFigures
    by_site: dict[str, PointFigures]


@dataclass(frozen=True)
class Calibration:
    """The temperature from validation images, and the calibration error on test images.

    `temperature` is None if no number fits best; see `fit_temperature`.
    """

    temperature: float | None
    ece_before: float
    ece_after: float


@dataclass(frozen=True)
class OperatingPoints:
    """What `operating-points.json` holds.

    Attributes:
        model: hex SHA-256 of the `model.safetensors` that the thresholds are for.
        positive: the class whose probability is the score.
        sites: whose samples were used; [] for all.
        notes: what a reader has to know about the figures.
    """

    run: str
    model: str
    level: str
    positive: str
    sites: list[str]
    calibration: Calibration
    points: list[OperatingPoint]
    notes: list[str]


class StoredEstimate(TypedDict):
    """An `Estimate` in the file."""

    value: float | None
    low: float | None
    high: float | None


class StoredFigures(TypedDict):
    """The keys of a point's figures that are read."""

    samples: int
    positives: int
    prevalence: float
    sensitivity: StoredEstimate
    specificity: StoredEstimate
    ppv: StoredEstimate
    npv: StoredEstimate


class StoredPoint(TypedDict):
    """The keys of a point that are read."""

    name: str
    metric: str
    wanted: float
    threshold: float
    test: StoredFigures
    by_site: dict[str, StoredFigures]


class StoredCalibration(TypedDict):
    """A `Calibration` in the file."""

    temperature: float | None
    ece_before: float
    ece_after: float


class StoredPoints(TypedDict):
    """The keys of `operating-points.json` that are read."""

    model: str
    level: str
    positive: str
    calibration: StoredCalibration
    points: list[StoredPoint]


@dataclass(frozen=True)
class _Scores:
    """Scores of one split at the level that is asked for: (N,) each."""

    positive: NDArray[np.bool_]
    scores: Array
    patients: NDArray[np.int64]
    site: NDArray[np.int64]


def choose_points(
    folder: StudyFolder,
    study: Study,
    store: Store,
    name: str,
    question: Question,
    targets: Sequence[Target],
    positive: str | None,
    prevalence: float | None,
    device: torch.device,
) -> OperatingPoints:
    """Choose a threshold for each target, report it on test samples, and write the decision.

    Args:
        name: of the run.
        question: about test samples; the validation samples are of the same level and sites.
        positive: the class that is told from the others; None: the positive one of two.
        prevalence: the share of positives that predictive values are for; None: as in the samples.

    Raises:
        UsageError: the labels are no classes, or no class is named among several.
        UnknownNameError: there is no such run or class.
        BadDataError: validation lacks positives or negatives, or no threshold reaches a target.
        StageOrderError, StudyMismatchError: as `evaluate`.
    """
    run = find_run(folder, name)
    check_run(run, study, store)
    class_index = _class_index(study, positive)
    if prevalence is not None and not 0 < prevalence < 1:
        raise UsageError(f"a prevalence of {prevalence:g}", expected="a share between 0 and 1")
    digest = sha256(run.model)
    asked = {
        split: Question(split, question.level, question.sites) for split in ("validation", "test")
    }
    scored = {
        split: score_samples(run, study, store, asked[split], device)
        for split in ("validation", "test")
    }
    images = {
        split: (samples.labels.numpy(), y_pred) for split, (samples, y_pred) in scored.items()
    }
    scores = {
        split: _scores(study, question, samples, y_pred, class_index)
        for split, (samples, y_pred) in scored.items()
    }
    _check_both_classes(scores["validation"], study.samples.labels, class_index)
    points = [_point(target, scores, scored["test"][0].sites, prevalence) for target in targets]
    result = OperatingPoints(
        run=name,
        model=digest,
        level=question.level,
        positive=study.samples.labels.classes[class_index],
        sites=list(question.sites),
        calibration=_calibration(images),
        points=points,
        notes=[note for point in points for note in _notes(point)],
    )
    write_json(run.operating_points(question), asdict(result))
    return result


def _class_index(study: Study, positive: str | None) -> int:
    labels = study.samples.labels
    if labels.kind == "regression":
        raise UsageError(
            f"'{study.dataset.name}' predicts a value, and an operating point is a threshold on "
            "the probability of a class",
            expected="a study of classes",
            hint="run `sltool evaluate` without --at",
        )
    if positive is None and labels.kind == "multiclass":
        raise UsageError(
            f"there are {len(labels.classes)} classes, and a threshold tells one from the others",
            expected=f"--class, one of {', '.join(labels.classes)}",
        )
    if positive is not None and positive not in labels.classes:
        raise UnknownNameError.of("class", positive, labels.classes)
    return labels.classes.index(positive or labels.classes[-1])


def _scores(
    study: Study, question: Question, samples: Any, y_pred: Array, class_index: int
) -> _Scores:
    kind, dataset = study.samples.labels.kind, study.dataset.name
    groups = group_indices(samples.groups, question.level, dataset)
    patients = group_indices(samples.groups, "patient", dataset)
    assert patients is not None
    y_true, predicted = aggregate(kind, samples.labels.numpy().astype(float), y_pred, groups)
    if predicted.ndim == 2:
        scores = predicted[:, class_index]
    else:
        scores = predicted if class_index else 1 - predicted
    first = slice(None) if groups is None else np.unique(groups, return_index=True)[1]
    return _Scores(y_true == class_index, scores, patients[first], samples.site[first])


def _check_both_classes(validation: _Scores, labels: Labels, class_index: int) -> None:
    name = labels.classes[class_index]
    for present, what in (
        (validation.positive.any(), f"of the class '{name}'"),
        ((~validation.positive).any(), f"that is not of the class '{name}'"),
    ):
        if not present:
            raise BadDataError(
                f"no validation sample is {what}, so that no threshold can be chosen",
                expected="validation samples of both kinds",
                hint="evaluate more --sites, or partition with a larger split.validation",
            )


def _point(
    target: Target, scores: dict[str, _Scores], sites: list[str], prevalence: float | None
) -> OperatingPoint:
    validation, test = scores["validation"], scores["test"]
    threshold = choose_threshold(target, validation.positive, validation.scores)

    def figures(part: _Scores, rows: NDArray[np.bool_] | slice = slice(None)) -> PointFigures:
        return _figures(
            part.positive[rows], part.scores[rows] >= threshold, part.patients[rows], prevalence
        )

    return OperatingPoint(
        name=target.name,
        metric=target.metric,
        wanted=target.wanted,
        threshold=threshold,
        validation=figures(validation),
        test=figures(test),
        by_site={site: figures(test, test.site == index) for index, site in enumerate(sites)},
    )


def choose_threshold(target: Target, positive: NDArray[np.bool_], scores: Array) -> float:
    """The threshold that reaches the target on these samples and costs least of the other metric.

    Args:
        positive: (N,) with at least one of each kind.
        scores: (N,) probabilities.

    Raises:
        BadDataError: only a threshold above every score reaches it.
    """
    levels = np.unique(scores)
    # What each score as a threshold reaches: (levels,).
    if target.metric == "sensitivity":
        ranked = np.sort(scores[positive])
        reached = 1 - np.searchsorted(ranked, levels, side="left") / len(ranked)
    else:
        ranked = np.sort(scores[~positive])
        reached = np.searchsorted(ranked, levels, side="left") / len(ranked)
    # Shares of whole counts: the tolerance only absorbs rounding.
    good = np.flatnonzero(reached >= target.wanted - 1e-12)
    if not len(good):
        best = float(reached.max())
        raise BadDataError(
            f"no threshold reaches a specificity of {target.wanted:g} on validation: the highest "
            "scores there are of negatives",
            expected=f"at most {best:.4g}",
            hint="ask for a lower specificity, or train a better network",
        )
    index = int(good[-1] if target.metric == "sensitivity" else good[0])
    if index == 0:
        return float(levels[0])
    middle = float(levels[index - 1] + (levels[index] - levels[index - 1]) / 2)
    return middle if middle > levels[index - 1] else float(levels[index])


def _figures(
    positive: NDArray[np.bool_],
    called: NDArray[np.bool_],
    patients: NDArray[np.int64],
    prevalence: float | None,
) -> PointFigures:
    sensitivity = Proportion.of(called[positive], patients[positive])
    specificity = Proportion.of(~called[~positive], patients[~positive])
    share = float(positive.mean()) if prevalence is None else prevalence
    ppv, npv = predictive_values(sensitivity, specificity, share)
    return PointFigures(
        samples=len(positive),
        positives=int(positive.sum()),
        prevalence=share,
        sensitivity=sensitivity.estimate() if sensitivity else UNDEFINED,
        specificity=specificity.estimate() if specificity else UNDEFINED,
        ppv=ppv,
        npv=npv,
    )


def _calibration(images: dict[str, tuple[Array, Array]]) -> Calibration:
    temperature = fit_temperature(*images["validation"])
    y_true, y_pred = images["test"]
    return Calibration(
        temperature,
        expected_calibration_error(y_true, y_pred),
        expected_calibration_error(y_true, calibrated(y_pred, temperature)),
    )


def _notes(point: OperatingPoint) -> list[str]:
    notes = []
    chosen_on = point.validation.positives
    if point.metric == "specificity":
        chosen_on = point.validation.samples - chosen_on
    if chosen_on * (1 - point.wanted) < 1 and point.wanted < 1:
        kind = "positives" if point.metric == "sensitivity" else "negatives"
        notes.append(
            f"{point.name} was chosen on {chosen_on} {kind} in validation, of which it may miss "
            "none"
        )
    reached: Estimate = getattr(point.test, point.metric)
    if reached.high is not None and reached.high < point.wanted:
        notes.append(
            f"{point.name}: the test samples reach {reached.value:.3f} ({reached.low:.3f} to "
            f"{reached.high:.3f}), less than wanted"
        )
    return notes


def read_points(run: RunFolder, question: Question) -> StoredPoints | None:
    """The thresholds that were chosen for the run's present model; None if none were.

    Raises:
        BadDataError: the file is damaged.
    """
    path = run.operating_points(question)
    if not path.is_file():
        return None
    hint = f"run `sltool evaluate --run {run.name} --at ...` again"
    points = read_json(path, StoredPoints, "the run's operating points", hint)
    # Training that went on has replaced the model.
    return points if points["model"] == sha256(run.model) else None
