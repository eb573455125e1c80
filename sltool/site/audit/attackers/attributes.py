"""Attribute inference from feature maps: the label, sex, the age band."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sltool.registry import attackers
from sltool.site.audit.attacker import Inference, Inferrer, Pairs, Scene
from sltool.site.audit.measures import mean_figure

Array = NDArray[Any]

COMPONENTS = 64
# A column with at most so many distinct values is an attribute; so is age.
MOST_VALUES = 10
AGE = "age"
BANDS = 10


@attackers.register("label")
class LabelInference(Inferrer):
    """Infers the label from the feature map, as if the label were not shipped with it."""

    def skip_reason(self, scene: Scene) -> str:
        return "" if scene.classes else "the label is not a class"

    def infer(self, scene: Scene, truth: Pairs) -> list[Inference]:
        description = "labels inferred correctly from the feature map alone"
        return [
            _inference("label", description, scene, scene.fit.labels, truth.labels, truth.groups)
        ]


@attackers.register("attributes")
class AttributeInference(Inferrer):
    """Classifies feature maps by each column with few values, such as sex, and by age band."""

    def skip_reason(self, scene: Scene) -> str:
        return "" if scene.columns else "for tables"

    def infer(self, scene: Scene, truth: Pairs) -> list[Inference]:
        inferences = []
        for index, name in enumerate(scene.columns):
            known, target = (
                _classes(name, pairs.inputs[:, index], scene) for pairs in (scene.fit, truth)
            )
            if known is not None and target is not None:
                description = f"'{name}' inferred correctly from the feature map alone"
                inferences.append(_inference(name, description, scene, known, target, truth.groups))
        return inferences


def _classes(name: str, column: Array, scene: Scene) -> Array | None:
    """The column's values as classes; None if it is not an attribute."""
    index = scene.columns.index(name)
    values = np.unique(scene.fit.inputs[:, index])
    if len(values) <= MOST_VALUES:
        return np.asarray(np.abs(column[:, None] - values).argmin(axis=1))
    if name == AGE:
        # Each band contains the same number of known patients.
        inner = np.linspace(0, 1, BANDS + 1)[1:-1]
        edges = np.quantile(scene.fit.inputs[:, index], inner)
        return np.asarray(np.digitize(column, edges))
    return None


def _inference(
    name: str, description: str, scene: Scene, known: Array, target: Array, groups: Array
) -> Inference:
    """The accuracy of a classifier of feature maps on the patients under attack."""
    majority = np.bincount(known.astype(int)).argmax()
    guesses = _classify(scene.fit.maps, known, scene.maps)
    figure = mean_figure(guesses == target, groups, seed=0)
    return Inference(name, figure, float((target == majority).mean()), description)


def _classify(known: Array, classes: Array, maps: Array) -> Array:
    from sklearn.decomposition import PCA
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    if len(np.unique(classes)) < 2:
        return np.full(len(maps), classes[0])
    features, targets = known.reshape(len(known), -1), maps.reshape(len(maps), -1)
    steps: list[Any] = [StandardScaler()]
    if features.shape[1] > COMPONENTS:
        steps.append(PCA(min(COMPONENTS, len(features)), svd_solver="randomized", random_state=0))
    else:
        steps += [PolynomialFeatures(2, include_bias=False), StandardScaler()]
    classifier = make_pipeline(*steps, LogisticRegression(max_iter=200))
    with warnings.catch_warnings():
        # The iterations are limited on purpose: an unconverged attacker is still an attacker.
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(features, classes)
    return np.asarray(classifier.predict(targets))
