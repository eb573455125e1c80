"""A plug-in: the handwritten digits that scikit-learn bundles, and a metric for ten classes."""

from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field
from sklearn.datasets import load_digits

from sltool.datasets.base import Dataset, Scan
from sltool.registry import datasets, metrics
from sltool.study.schema import Labels, Samples, Section


@datasets.register("digits")
class Digits(Dataset):
    """1,797 digits of 43 people, 8x8 pixels of 0 to 16 (Alpaydin and Kaynak, 1998)."""

    class Settings(Section):
        lowest: int = Field(default=0, ge=0, le=8, description="Digits below it are left out.")

    recipes: ClassVar = {
        "best": {"model": {"name": "resnet", "widths": [16]}, "training": {"epochs": 3}}
    }
    needs_source = False

    def samples(self) -> Samples:
        classes = tuple(str(digit) for digit in range(self.settings.lowest, 10))
        labels = Labels(kind="multiclass", classes=classes)
        return Samples(shape=(1, 8, 8), mean=(8.0,), sd=(4.0,), labels=labels)

    def scan(self, source: Path | None) -> Scan:
        images, digits = load_digits(return_X_y=True)
        rows = np.flatnonzero(digits >= self.settings.lowest)
        records = [f"digit {row}" for row in rows]
        return Scan(
            inputs=images[rows].reshape(-1, 1, 8, 8).astype(np.uint8),
            labels=digits[rows] - self.settings.lowest,
            records=records,
            groups=records,
            notes=["the writers are not named: each digit counts as a patient of its own"],
        )


@metrics.register("top2", kinds=("multiclass",), better="higher", unit="%")
def top2(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    """Share of the samples whose class is among the two most probable."""
    return 100 * float((np.argsort(y_pred)[:, -2:] == y_true[:, None]).any(axis=1).mean())
