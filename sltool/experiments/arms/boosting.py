"""boosting: scikit-learn's gradient boosting on the pooled raw columns of a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sltool.experiments.arm_files import TrainingSummary
from sltool.experiments.training_loop import write_outcome
from sltool.experiments.trial import Trial
from sltool.server.store import StoredSamples
from sltool.study.schema import Study

# Below this many rows exact splits are fast enough, and more accurate than histogram bins.
EXACT_BELOW = 10_000


def run(trial: Trial, target: Path) -> TrainingSummary:
    """Fit on all sites' training rows with scikit-learn's defaults; no validation rows are used."""
    data = trial.raw
    train, test = data.store.samples("train"), data.store.samples("test")
    model = _model(data.study, len(train), trial.seed)
    model.fit(columns(train, data.study), train.labels.numpy())
    write_outcome(target, data.study, test, _predict(model, data.study, test), [])
    return TrainingSummary(len(train))


def columns(samples: StoredSamples, study: Study) -> Any:
    """(N, columns) float64 in the units of the source."""
    standardised = samples.feature_maps(samples.rows).astype(np.float64)
    return standardised * np.array(study.samples.sd) + np.array(study.samples.mean)


def _model(study: Study, rows: int, seed: int) -> Any:
    from sklearn import ensemble

    kind = "Regressor" if study.samples.labels.kind == "regression" else "Classifier"
    name = "GradientBoosting" if rows < EXACT_BELOW else "HistGradientBoosting"
    return getattr(ensemble, name + kind)(random_state=seed)


def _predict(model: Any, study: Study, test: StoredSamples) -> Any:
    inputs = columns(test, study)
    kind = study.samples.labels.kind
    if kind == "regression":
        return model.predict(inputs)
    probabilities = model.predict_proba(inputs)
    return probabilities[:, 1] if kind == "binary" else probabilities
