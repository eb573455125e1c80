"""The loss for labels that are randomised responses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score
from torch import nn

from sltool.randomised_response import RandomisedResponse
from sltool.server.training.objective import Objective
from sltool.study.schema import Labels, Training

CLASSES = {"binary": ("no", "yes"), "multiclass": ("a", "b", "c", "d")}


def respond(labels: np.ndarray, method: RandomisedResponse, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    other = rng.integers(0, method.classes - 1, len(labels))
    other += other >= labels
    return np.where(rng.random(len(labels)) < method.keep, labels, other)


def probabilities(objective: Objective, outputs: torch.Tensor) -> np.ndarray:
    found = objective.predict(outputs).numpy()
    return np.stack([1 - found, found], 1) if found.ndim == 1 else found


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("epsilon", [1e-6, 1.0, 60.0])
def test_the_loss_is_that_of_the_noisy_prediction(kind: str, epsilon: float) -> None:
    rng = np.random.default_rng(0)
    count = len(CLASSES[kind])
    # A prediction that is certain and wrong has a finite loss.
    outputs = torch.from_numpy(rng.normal(size=(60, 1 if count == 2 else count)) * 20).float()
    labels = torch.from_numpy(np.r_[np.arange(count), rng.integers(0, count, 60 - count)])
    objective = Objective(Labels(kind=kind, classes=CLASSES[kind]), Training(), epsilon)
    keep = np.exp(epsilon) / (np.exp(epsilon) + count - 1)
    flip = (1 - keep) / (count - 1)
    transition = np.full((count, count), flip) + np.eye(count) * (keep - flip)
    mild = outputs.clamp(-8, 8)
    expected = log_loss(labels, probabilities(objective, mild) @ transition)
    found = objective.loss(mild, labels)
    assert found.item() == pytest.approx(expected, rel=1e-4)
    assert torch.isfinite(objective.loss(outputs * 1e4, labels))


@pytest.mark.parametrize("kind", CLASSES)
def test_a_large_epsilon_changes_nothing(kind: str) -> None:
    rng = np.random.default_rng(1)
    count = len(CLASSES[kind])
    outputs = torch.from_numpy(rng.normal(size=(40, 1 if count == 2 else count))).float()
    labels = torch.from_numpy(rng.integers(0, count, 40))
    settings = Training(label_smoothing=0.1)
    kinds = Labels(kind=kind, classes=CLASSES[kind])
    plain, corrected = (Objective(kinds, settings, epsilon) for epsilon in (None, 100.0))
    assert corrected.loss(outputs, labels).item() == pytest.approx(
        plain.loss(outputs, labels).item(), rel=1e-5
    )


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("weights", ["none", "balanced"])
def test_the_minimum_is_the_truth_in_spite_of_heavy_flips(kind: str, weights: str) -> None:
    """Without features: what is predicted is the share of each class, balanced or not."""
    count = len(CLASSES[kind])
    shares = np.array([0.7, 0.3] if count == 2 else [0.5, 0.3, 0.15, 0.05])
    method = RandomisedResponse(count, 0.8)
    truth = np.random.default_rng(2).choice(count, 400_000, p=shares)
    answers = torch.from_numpy(respond(truth, method, 3))

    def fitted(epsilon: float | None) -> np.ndarray:
        settings = Training(class_weights=weights)
        objective = Objective(Labels(kind=kind, classes=CLASSES[kind]), settings, epsilon)
        objective.balance(answers)
        outputs = nn.Parameter(torch.zeros(1, 1 if count == 2 else count))
        # The loss depends on the counts alone; a sample for each class with its weight is enough.
        optimizer = torch.optim.LBFGS([outputs], max_iter=200, line_search_fn="strong_wolfe")
        each = torch.bincount(answers, minlength=count) / len(answers)

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            losses = [
                objective.loss(outputs, torch.tensor([label])) * each[label]
                for label in range(count)
            ]
            total = torch.stack(losses).sum()
            total.backward()
            return total

        optimizer.step(closure)
        return probabilities(objective, outputs.detach())[0]

    expected = np.full(count, 1 / count) if weights == "balanced" else shares
    np.testing.assert_allclose(fitted(method.epsilon), expected, atol=0.02)
    if weights == "none":
        assert abs(fitted(None) - expected).max() > 0.1


def test_corrected_training_beats_uncorrected_on_clean_labels() -> None:
    """One class in ten, and a third of the answers wrong: the majority of answers is misleading."""
    rng = np.random.default_rng(4)
    method = RandomisedResponse(2, 0.7)
    truth = (rng.random(12_000) < 0.1).astype(np.int64)
    features = rng.normal(size=(12_000, 5)) + truth[:, None] * 1.2
    x = torch.from_numpy(features).float()
    answers = torch.from_numpy(respond(truth, method, 5))
    kinds = Labels(kind="binary", classes=CLASSES["binary"])

    def loss_on_clean_labels(epsilon: float | None) -> float:
        torch.manual_seed(0)
        network = nn.Linear(5, 1)
        objective = Objective(kinds, Training(), epsilon)
        optimizer = torch.optim.LBFGS(
            network.parameters(), max_iter=100, line_search_fn="strong_wolfe"
        )

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = objective.loss(network(x[:10_000]), answers[:10_000])
            loss.backward()
            return loss

        optimizer.step(closure)
        clean = objective.loss if epsilon is None else Objective(kinds, Training()).loss
        return clean(network(x[10_000:]).detach(), torch.from_numpy(truth[10_000:])).item()

    corrected, uncorrected = (loss_on_clean_labels(epsilon) for epsilon in (0.7, None))
    assert corrected < 0.6 * uncorrected


@pytest.mark.parametrize("count", [2, 5])
def test_estimates_against_the_truth_are_unbiased(count: int) -> None:
    rng = np.random.default_rng(6)
    method = RandomisedResponse(count, 1.0)
    truth = rng.choice(count, 300_000, p=np.arange(1, count + 1) / (count * (count + 1) / 2))
    predicted = np.where(rng.random(len(truth)) < 0.8, truth, rng.integers(0, count, len(truth)))
    answers = respond(truth, method, 7)
    accuracy = method.true_accuracy(float((predicted == answers).mean()))
    assert accuracy == pytest.approx((predicted == truth).mean(), abs=0.005)
    counts = method.true_counts(np.bincount(answers))
    np.testing.assert_allclose(counts, np.bincount(truth), rtol=0.05)
    if count == 2:
        scores = truth + rng.normal(size=len(truth))
        estimated = method.true_auroc(roc_auc_score(answers, scores), answers.mean())
        assert estimated == pytest.approx(roc_auc_score(truth, scores), abs=0.005)
