"""Recipes: what fills the sections of a new study.yaml, and the training that fits its size.

A dataset has its recipes beside its code (`Dataset.recipes`). A recipe that leaves out
`training.epochs` or `training.batch_size` gets them from `training_for`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sltool.datasets.base import Dataset
from sltool.errors import UnknownNameError
from sltool.study.schema import SIZED_KEYS, Recipe, Study

BEST = "best"
# Assumed where nobody has counted yet: a study of a few thousand patients.
ASSUMED_SAMPLES = 2000

BATCH_SIZES = (16, 256)
USUAL_EPOCHS, LEAST_EPOCHS, MOST_EPOCHS = 60, 10, 200
LEAST_STEPS, MOST_STEPS = 1500, 20_000
RULES = {
    "batch_size": "The recipe's rule: the power of two nearest to the square root of the number "
    f"of training samples (recipe.samples), from {BATCH_SIZES[0]} to {BATCH_SIZES[1]}.",
    "epochs": f"The recipe's rule: {USUAL_EPOCHS}; for few samples as many as make {LEAST_STEPS:,} "
    f"steps (at most {MOST_EPOCHS}), for many as few as make {MOST_STEPS:,} steps (at least "
    f"{LEAST_EPOCHS}).",
}


def training_for(samples: int, batch_size: int | None = None) -> dict[str, int]:
    """`training.batch_size` and `training.epochs` for so many training samples, by `RULES`.

    The batch grows with the square root of the set, so that both the steps of an epoch and the
    samples of a step do. On the sets of docs/reproduction.md this gives the settings that were
    chosen there by validation: 800 rows 32 and 60 epochs, 1,985 slices 32, 16,000 rows 128 and 60.

    Args:
        batch_size: the batch size, if it is given.
    """
    if batch_size is None:
        nearest = 2 ** round(math.log2(max(samples, 1)) / 2)
        batch_size = min(max(nearest, BATCH_SIZES[0]), BATCH_SIZES[1])
    steps = max(1, math.ceil(samples / batch_size))
    fewest = min(MOST_EPOCHS, math.ceil(LEAST_STEPS / steps))
    most = max(LEAST_EPOCHS, MOST_STEPS // steps)
    return {"batch_size": batch_size, "epochs": min(max(USUAL_EPOCHS, fewest), most)}


def find_recipe(kind: type[Dataset], dataset: str, name: str) -> Mapping[str, Any]:
    """The sections of this recipe.

    Raises:
        UnknownNameError: the dataset has no such recipe.
    """
    # A plug-in with a single recipe may call it `recipe`.
    recipes = kind.recipes or {BEST: kind.recipe}
    if name not in recipes:
        raise UnknownNameError.of(f"{dataset} recipe", name, recipes)
    return recipes[name]


def add_sized_keys(content: dict[str, Any], recipe: str, samples: int | None) -> None:
    """Complete `training` by the rules, and record the recipe, in a new study's content."""
    training = content.setdefault("training", {})
    if not isinstance(training, dict):
        return
    sized = [key for key in SIZED_KEYS if key not in training]
    given = training.get("batch_size")
    # What is no batch size is refused when the study is checked.
    usable = given if isinstance(given, int) and given > 0 else None
    found = training_for(samples or ASSUMED_SAMPLES, usable)
    training.update({key: found[key] for key in sized})
    content["recipe"] = {"name": recipe, "sized": sized, "samples": samples}


def resized(study: Study, samples: int) -> Study:
    """The study with the training for so many training samples, counted for the first time.

    A key that does not have the value for `ASSUMED_SAMPLES` any more was changed by a person.
    """
    recipe, training = study.recipe, study.training
    if recipe.samples is not None or not recipe.sized:
        return study
    given = None if "batch_size" in recipe.sized else training.batch_size
    assumed, found = training_for(ASSUMED_SAMPLES, given), training_for(samples, given)
    changes: dict[str, Any] = {
        key: found[key] for key in recipe.sized if getattr(training, key) == assumed[key]
    }
    return study.model_copy(
        update={
            "training": training.model_copy(update=changes),
            "recipe": Recipe(name=recipe.name, sized=recipe.sized, samples=samples),
        }
    )
