"""Studies of small networks."""

from __future__ import annotations

from typing import Any

from sltool.study.schema import Study

# For each model: the shape of a sample, settings of a small network, and its hidden layers.
SMALL: dict[str, tuple[tuple[int, ...], dict[str, Any], int]] = {
    "covid-cnn": ((1, 32, 32), {"filters": [2, 4, 4, 8, 8]}, 5),
    "mlp": ((7,), {}, 3),
    "resnet": ((1, 96, 96), {"channels": 4, "widths": [8, 8], "blocks": 1}, 4),
    "timm": ((1, 64, 64), {"network": "test_resnet", "channels": 4}, 6),
    "vgg19": ((1, 64, 64), {"width": 0.0625}, 17),
}


def study_of(
    model: str, shape: tuple[int, ...], cut: int = 1, classes: int = 2, **settings: Any
) -> Study:
    """A study of class labels with this model."""
    names = [f"class {class_index}" for class_index in range(classes)]
    return Study.model_validate(
        {
            "id": "0" * 32,
            "dataset": {"name": "none"},
            "samples": {
                "shape": shape,
                "mean": [0.0] * shape[0],
                "sd": [1.0] * shape[0],
                "labels": {"kind": "binary" if classes == 2 else "multiclass", "classes": names},
            },
            "model": {"name": model, "cut": cut, **settings},
        }
    )
