"""friedewald, martin-hopkins, sampson: clinical equations for LDL cholesterol, in mg/dL.

Friedewald et al., Clin Chem 1972;18:499. Martin et al., JAMA 2013;310:2061, Figure 2: the 180
medians of TG : VLDL-C by triglycerides and non-HDL cholesterol. Sampson et al., JAMA Cardiol
2020;5:540 (NIH equation 2). Each is applied to every row, also outside the range that its authors
recommend (triglycerides from 400, from 800 for Sampson), so that all arms have the same test rows.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sltool.experiments.arm_files import TrainingSummary
from sltool.experiments.arms.boosting import columns
from sltool.experiments.training_loop import write_outcome
from sltool.experiments.trial import Trial
from sltool.study.schema import Study

Array = NDArray[Any]
NEEDED = ("TC", "HDL", "TG")


def friedewald(tc: Array, hdl: Array, tg: Array) -> Array:
    """TC - HDL - TG / 5."""
    return np.asarray(tc - hdl - tg / 5)


def sampson(tc: Array, hdl: Array, tg: Array) -> Array:
    """NIH equation 2."""
    non_hdl = tc - hdl
    vldl = tg / 8.56 + tg * non_hdl / 2140 - tg**2 / 16100
    return np.asarray(tc / 0.948 - hdl / 0.971 - vldl - 9.44)


def martin_hopkins(tc: Array, hdl: Array, tg: Array) -> Array:
    """TC - HDL - TG / factor, the factor by the strata of TG (rows) and non-HDL (columns)."""
    non_hdl = tc - hdl
    row = np.searchsorted(TG_FROM, np.floor(tg), side="right")
    column = np.searchsorted(NON_HDL_FROM, np.floor(non_hdl), side="right")
    return np.asarray(non_hdl - tg / FACTORS[row, column])


FORMULAS: dict[str, Callable[[Array, Array, Array], Array]] = {
    "friedewald": friedewald,
    "martin-hopkins": martin_hopkins,
    "sampson": sampson,
}


def run(name: str, trial: Trial, target: Path) -> TrainingSummary:
    """The equation on the raw columns of the test rows; nothing is trained."""
    data = trial.raw
    test = data.store.samples("test")
    table = columns(test, data.study)
    names = data.study.dataset.settings()["columns"]
    lipids = (table[:, names.index(column)] for column in NEEDED)
    write_outcome(target, data.study, test, FORMULAS[name](*lipids), [])
    return TrainingSummary(0)


def inapplicable(study: Study) -> str:
    """Why the equations cannot be applied to this study, or ''."""
    names = study.dataset.settings().get("columns", ())
    if study.samples.labels.kind == "regression" and set(NEEDED) <= set(names):
        return ""
    return "the equations need the columns TC, HDL and TG"


# Lower bounds, in mg/dL, of all strata except the lowest.
NON_HDL_FROM = np.array([100, 130, 160, 190, 220])
# fmt: off
TG_FROM = np.array([
    50, 57, 62, 67, 72, 76, 80, 84, 88, 93, 97, 101, 106, 111, 116, 121, 127, 133, 139, 147,
    155, 164, 174, 186, 202, 221, 248, 293, 400,
])
# fmt: on
FACTORS = np.array(
    [
        [3.5, 3.4, 3.3, 3.3, 3.2, 3.1],
        [4.0, 3.9, 3.7, 3.6, 3.6, 3.4],
        [4.3, 4.1, 4.0, 3.9, 3.8, 3.6],
        [4.5, 4.3, 4.1, 4.0, 3.9, 3.9],
        [4.7, 4.4, 4.3, 4.2, 4.1, 3.9],
        [4.8, 4.6, 4.4, 4.2, 4.2, 4.1],
        [4.9, 4.6, 4.5, 4.3, 4.3, 4.2],
        [5.0, 4.8, 4.6, 4.4, 4.3, 4.2],
        [5.1, 4.8, 4.6, 4.5, 4.4, 4.3],
        [5.2, 4.9, 4.7, 4.6, 4.4, 4.3],
        [5.3, 5.0, 4.8, 4.7, 4.5, 4.4],
        [5.4, 5.1, 4.8, 4.7, 4.5, 4.3],
        [5.5, 5.2, 5.0, 4.7, 4.6, 4.5],
        [5.6, 5.3, 5.0, 4.8, 4.6, 4.5],
        [5.7, 5.4, 5.1, 4.9, 4.7, 4.5],
        [5.8, 5.5, 5.2, 5.0, 4.8, 4.6],
        [6.0, 5.5, 5.3, 5.0, 4.8, 4.6],
        [6.1, 5.7, 5.3, 5.1, 4.9, 4.7],
        [6.2, 5.8, 5.4, 5.2, 5.0, 4.7],
        [6.3, 5.9, 5.6, 5.3, 5.0, 4.8],
        [6.5, 6.0, 5.7, 5.4, 5.1, 4.8],
        [6.7, 6.2, 5.8, 5.4, 5.2, 4.9],
        [6.8, 6.3, 5.9, 5.5, 5.3, 5.0],
        [7.0, 6.5, 6.0, 5.7, 5.4, 5.1],
        [7.3, 6.7, 6.2, 5.8, 5.5, 5.2],
        [7.6, 6.9, 6.4, 6.0, 5.6, 5.3],
        [8.0, 7.2, 6.6, 6.2, 5.9, 5.4],
        [8.5, 7.6, 7.0, 6.5, 6.1, 5.6],
        [9.5, 8.3, 7.5, 7.0, 6.5, 5.9],
        [11.9, 10.0, 8.8, 8.1, 7.5, 6.7],
    ]
)
