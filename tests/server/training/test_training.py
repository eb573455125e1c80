"""What each key of `training` in study.yaml does, and several seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_sample_weight

from sltool.errors import StudyFileError
from sltool.models.base import build
from sltool.server.training.objective import Objective
from sltool.server.training.optimizer import schedule
from sltool.study.layout import StudyFolder
from sltool.study.schema import Labels, Training
from sltool.study.study_file import load_study
from tests.server.conftest import Server, same

CLASSES = {"binary": ("no", "yes"), "multiclass": ("a", "b", "c")}
RNG = np.random.default_rng(0)


def outputs_and_labels(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    count = len(CLASSES[kind])
    outputs = RNG.normal(size=(40, 1 if count == 2 else count)).astype(np.float32)
    labels = np.r_[0:count, RNG.random(40 - count) < 0.2].astype(np.int64)
    return torch.from_numpy(outputs), torch.from_numpy(labels)


@pytest.mark.parametrize("kind", CLASSES)
def test_balanced_classes_have_scikit_learns_weights(kind: str) -> None:
    outputs, labels = outputs_and_labels(kind)
    objective = Objective(
        Labels(kind=kind, classes=CLASSES[kind]), Training(class_weights="balanced")
    )
    objective.balance(labels)
    weights = compute_sample_weight("balanced", labels)
    probabilities = objective.predict(outputs).numpy()
    expected = log_loss(labels, probabilities, sample_weight=weights)
    assert objective.loss(outputs, labels).item() == pytest.approx(expected, rel=1e-5)
    plain = log_loss(labels, probabilities)
    assert abs(expected - plain) > 0.001


@pytest.mark.parametrize("kind", CLASSES)
def test_smoothing_spreads_a_share_of_the_label_over_all_classes(kind: str) -> None:
    outputs, labels = outputs_and_labels(kind)
    objective = Objective(Labels(kind=kind, classes=CLASSES[kind]), Training(label_smoothing=0.1))
    count = len(CLASSES[kind])
    probabilities = objective.predict(outputs).numpy()
    if count == 2:
        probabilities = np.stack([1 - probabilities, probabilities], 1)
    target = np.full((40, count), 0.1 / count)
    target[np.arange(40), labels] += 0.9
    expected = -(target * np.log(probabilities)).sum(1).mean()
    assert objective.loss(outputs, labels).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("settings", [{"class_weights": "balanced"}, {"label_smoothing": 0.1}])
def test_what_is_for_classes_is_refused_for_numbers(settings: dict[str, object]) -> None:
    with pytest.raises(StudyFileError, match="does not fit regression labels"):
        Objective(Labels(kind="regression"), Training.model_validate(settings))


@pytest.mark.parametrize(
    ("name", "points"),
    [
        ("constant", {0: 1, 0.5: 1, 1: 1}),
        ("cosine", {0: 1, 0.5: 0.5, 1: 0}),
        ("one-cycle", {0: 0.04, 0.3: 1, 0.65: 0.5, 1: 0}),
    ],
)
def test_the_rate_follows_the_schedule(name: str, points: dict[float, float]) -> None:
    rate = schedule(Training.model_validate({"schedule": name}))
    assert {done: rate(done) for done in points} == pytest.approx(points)


def first_step(server: Server, run: str) -> float:
    """The change of the weights by one SGD step, in units of the learning rate."""
    server.sltool("server-train", "--run", run, "--max-epochs", 1, "--device", "cpu").ok()
    network = build(load_study(StudyFolder(server.folder)), 0).server_network.state_dict()
    moved = server.checkpoint(run)["network"]
    squares = sum((moved[name] - before).square().sum().item() for name, before in network.items())
    return math.sqrt(squares) / 0.01


def test_a_gradient_is_cut_to_its_greatest_norm(shipped: Server) -> None:
    shipped.set_training(
        batch_size=1000, optimizer="sgd", learning_rate=0.01, schedule="constant", weight_decay=0.0
    )
    free = first_step(shipped, "free")
    shipped.set_training(clip_gradient=free / 4)
    assert first_step(shipped, "cut") == pytest.approx(free / 4, rel=1e-3)
    shipped.set_training(clip_gradient=free * 2)
    assert first_step(shipped, "below") == pytest.approx(free, rel=1e-3)


def test_it_stops_early_when_validation_gets_no_better(shipped: Server) -> None:
    # A learning rate at which float32 weights do not change: the first epoch stays the best.
    shipped.set_training(epochs=50, learning_rate=1e-30, patience=3)
    ran = shipped.sltool("server-train", "--json").ok()
    assert [row["epoch"] for row in shipped.history()] == ["1", "2", "3", "4"]
    assert ran.json["stopped"] == "no lower validation loss since epoch 1"
    assert "the best is epoch 1" in shipped.sltool("server-train").ok().out


def test_several_seeds_are_runs_of_their_own(shipped: Server) -> None:
    ran = shipped.sltool("server-train", "--seeds", 2, "--seed", 5, "--json").ok()
    assert [run["run"] for run in ran.json["runs"]] == ["default-0", "default-1"]
    assert not same(shipped.weights("default-0"), shipped.weights("default-1"))
    shipped.sltool("server-train", "--run", "alone", "--seed", 6).ok()
    assert same(shipped.weights("alone"), shipped.weights("default-1"))


def test_tensorboard_shows_the_history_once(shipped: Server) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    shipped.sltool("server-train", "--max-epochs", 2).ok()
    shipped.sltool("server-train").ok()
    events = accumulator.EventAccumulator(str(shipped.run_folder() / "tensorboard"))
    events.Reload()
    history = shipped.history()
    assert {"train_loss", "validation_loss"} <= set(events.Tags()["scalars"]) <= set(history[0])
    for name in events.Tags()["scalars"]:
        logged = {event.step: event.value for event in events.Scalars(name)}
        assert len(events.Scalars(name)) == len(history) == 6
        assert logged == pytest.approx({int(row["epoch"]): float(row[name]) for row in history})
