"""boosting: scikit-learn's gradient boosting on the pooled raw columns of a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sltool.experiments.bench import Bench
from sltool.experiments.engine import write_outcome
from sltool.experiments.outcome import Outcome
from sltool.server.store import Samples
from sltool.study import Study

# Below this many rows the exact trees are quick, and better than the binned ones.
EXACT_BELOW = 10_000


def run(bench: Bench, target: Path) -> Outcome:
    """Fit on all sites' training rows with scikit-learn's own settings; validation is not used."""
    side = bench.raw
    train, test = side.store.samples("train"), side.store.samples("test")
    model = _model(side.study, len(train), bench.seed)
    model.fit(columns(train, side.study), train.labels.numpy())
    write_outcome(target, side.study, test, _predict(model, side.study, test), [])
    return Outcome(len(train))


def columns(samples: Samples, study: Study) -> Any:
    """(N, columns) float64 in the source's units."""
    standardised = samples.features[samples.rows].numpy().astype(np.float64)
    return standardised * np.array(study.samples.sd) + np.array(study.samples.mean)


def _model(study: Study, rows: int, seed: int) -> Any:
    from sklearn import ensemble

    kind = "Regressor" if study.samples.labels.kind == "regression" else "Classifier"
    name = "GradientBoosting" if rows < EXACT_BELOW else "HistGradientBoosting"
    return getattr(ensemble, name + kind)(random_state=seed)


def _predict(model: Any, study: Study, test: Samples) -> Any:
    inputs = columns(test, study)
    kind = study.samples.labels.kind
    if kind == "regression":
        return model.predict(inputs)
    probabilities = model.predict_proba(inputs)
    return probabilities[:, 1] if kind == "binary" else probabilities
