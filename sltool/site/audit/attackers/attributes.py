"""What a feature map tells beside the picture: the label, sex, the age band."""

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
# Columns with no more values than these are attributes; of others, age alone is one.
MOST_VALUES = 10
AGE = "age"
BANDS = 10


@attackers.register("label")
class LabelInference(Inferrer):
    """Tells the label from the feature map, as if it did not travel beside it."""

    def excuse(self, scene: Scene) -> str:
        return "" if scene.classes else "the label is no class"

    def infer(self, scene: Scene, truth: Pairs) -> list[Inference]:
        told = "labels told right from the feature map alone"
        return [_told("label", told, scene, scene.fit.labels, truth.labels, truth.groups)]


@attackers.register("attributes")
class AttributeInference(Inferrer):
    """Classifies feature maps by each column with few values, such as sex, and by age band."""

    def excuse(self, scene: Scene) -> str:
        return "" if scene.columns else "for tables"

    def infer(self, scene: Scene, truth: Pairs) -> list[Inference]:
        found = []
        for number, name in enumerate(scene.columns):
            known, wanted = (
                _classes(name, one.inputs[:, number], scene) for one in (scene.fit, truth)
            )
            if known is not None and wanted is not None:
                told = f"'{name}' told right from the feature map alone"
                found.append(_told(name, told, scene, known, wanted, truth.groups))
        return found


def _classes(name: str, column: Array, scene: Scene) -> Array | None:
    """The column's values as classes; None where it is no attribute."""
    number = scene.columns.index(name)
    values = np.unique(scene.fit.inputs[:, number])
    if len(values) <= MOST_VALUES:
        return np.asarray(np.abs(column[:, None] - values).argmin(axis=1))
    if name == AGE:
        # Bands with as many of the known patients in each.
        inner = np.linspace(0, 1, BANDS + 1)[1:-1]
        edges = np.quantile(scene.fit.inputs[:, number], inner)
        return np.asarray(np.digitize(column, edges))
    return None


def _told(
    name: str, told: str, scene: Scene, known: Array, wanted: Array, groups: Array
) -> Inference:
    """How often a classifier of feature maps is right on the patients under attack."""
    common = np.bincount(known.astype(int)).argmax()
    guesses = _classify(scene.fit.maps, known, scene.maps)
    figure = mean_figure(guesses == wanted, groups, seed=0)
    return Inference(name, figure, float((wanted == common).mean()), told)


def _classify(known: Array, classes: Array, maps: Array) -> Array:
    from sklearn.decomposition import PCA
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    if len(np.unique(classes)) < 2:
        return np.full(len(maps), classes[0])
    flat, wanted = known.reshape(len(known), -1), maps.reshape(len(maps), -1)
    steps: list[Any] = [StandardScaler()]
    if flat.shape[1] > COMPONENTS:
        steps.append(PCA(min(COMPONENTS, len(flat)), svd_solver="randomized", random_state=0))
    else:
        steps += [PolynomialFeatures(2, include_bias=False), StandardScaler()]
    classifier = make_pipeline(*steps, LogisticRegression(max_iter=200))
    with warnings.catch_warnings():
        # What it has found by then is what it has found.
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(flat, classes)
    return np.asarray(classifier.predict(wanted))
