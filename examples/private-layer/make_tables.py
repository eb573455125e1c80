"""Halves scikit-learn's breast cancer table. Usage: make_tables.py PUBLIC HOSPITAL.

One half plays public data, on which a privacy layer may be fitted; the other a hospital's patients.
"""

import sys
from pathlib import Path

import pandas as pd
from sklearn.datasets import load_breast_cancer

COLUMNS = ["radius", "texture", "smoothness", "compactness", "concavity", "symmetry"]


def main(public: Path, hospital: Path) -> None:
    bunch = load_breast_cancer(as_frame=True)
    table = bunch.data[[f"mean {name}" for name in COLUMNS]].set_axis(COLUMNS, axis=1)
    table["diagnosis"] = pd.Categorical.from_codes(bunch.target, bunch.target_names)
    table = table.sample(frac=1, random_state=0)
    table[: len(table) // 2].to_csv(public, index=False)
    table[len(table) // 2 :].to_csv(hospital, index=False)


main(Path(sys.argv[1]), Path(sys.argv[2]))
