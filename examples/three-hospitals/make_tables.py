"""Deals scikit-learn's breast cancer table to three hospitals. Usage: make_tables.py FOLDER.

Hospital C calls a column otherwise than the study does.
"""

import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer

COLUMNS = ["radius", "texture", "smoothness", "concavity", "symmetry"]
SHARES = {"A": 0.5, "B": 0.3, "C": 0.2}


def main(folder: Path) -> None:
    bunch = load_breast_cancer()
    places = [list(bunch.feature_names).index(f"mean {name}") for name in COLUMNS]
    rows = [
        ",".join([*(f"{value:g}" for value in values), bunch.target_names[target]])
        for values, target in zip(bunch.data[:, places], bunch.target, strict=True)
    ]
    order = np.random.default_rng(0).permutation(len(rows))
    ends = (np.cumsum([*SHARES.values()]) * len(rows)).round().astype(int)
    for name, part in zip(SHARES, np.split(order, ends), strict=False):
        header = ",".join([*COLUMNS, "diagnosis"])
        if name == "C":
            header = header.replace("texture", "texture_mean")
        (folder / f"{name}.csv").write_text(
            "\n".join([header, *(rows[row] for row in part)]) + "\n"
        )


main(Path(sys.argv[1]))
