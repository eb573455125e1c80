"""Recipes: the settings of a new study, and the training that fits the number of its samples."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

import sltool as package
from sltool.coordinator.recipes import training_for
from sltool.progress import Silent
from sltool.study.layout import StudyFolder
from sltool.study.schema import Study
from sltool.study.study_file import load_study
from tests.conftest import Sltool
from tests.images import two_classes

OLD_PLUGIN = '''
from sltool.datasets.cholesterol import Cholesterol
from sltool.registry import datasets


@datasets.register("lipids")
class Lipids(Cholesterol):
    """Lipids."""

    recipes = {}
    recipe = {"model": {"name": "mlp", "widths": [8, 8]}, "training": {"epochs": 7}}
'''
THREE_RECIPES = '''
from sltool.datasets.cholesterol import Cholesterol
from sltool.registry import datasets


@datasets.register("lipids")
class Lipids(Cholesterol):
    """Lipids."""

    recipes = {
        **Cholesterol.recipes,
        "small": {
            "model": {"name": "mlp", "widths": [4, 4]},
            "training": {"optimizer": "sgd", "batch_size": 8},
        },
    }
'''


def study_in(sltool: Sltool) -> Study:
    return load_study(StudyFolder(sltool.folder))


def comment_above(folder: Path, key: str) -> str:
    """The comment above the first line of study.yaml that begins with this key."""
    lines = (folder / "study.yaml").read_text().splitlines()
    place = next(index for index, line in enumerate(lines) if line.lstrip().startswith(f"{key}:"))
    words: list[str] = []
    while lines[place - 1].lstrip().startswith("#"):
        place -= 1
        words.insert(0, lines[place].lstrip(" #"))
    return " ".join(words)


@pytest.mark.parametrize(
    ("samples", "batch_size", "epochs"),
    [
        (1, 16, 200),
        (35, 16, 200),
        (400, 16, 60),
        (800, 32, 60),
        (1985, 32, 60),
        (6752, 64, 60),
        (16_000, 128, 60),
        (400_000, 256, 12),
        (10_000_000, 256, 10),
    ],
)
def test_batches_and_epochs_fit_the_number_of_samples(
    samples: int, batch_size: int, epochs: int
) -> None:
    assert training_for(samples) == {"batch_size": batch_size, "epochs": epochs}


def test_every_size_from_hundreds_on_has_enough_steps_and_not_too_many() -> None:
    for samples in range(120, 500_000, 1711):
        found = training_for(samples)
        steps = found["epochs"] * math.ceil(samples / found["batch_size"])
        assert 1400 <= steps <= 20_000, samples


def test_the_default_is_best_and_fits_the_source(sltool: Sltool) -> None:
    sltool("prepare", "cholesterol").ok()
    study = study_in(sltool)
    assert (study.recipe.name, study.recipe.samples) == ("best", 354)
    assert (study.training.batch_size, study.training.epochs) == (16, 66)
    assert study.training.schedule == "one-cycle"
    assert "power of two nearest to the square root" in comment_above(sltool.folder, "batch_size")
    assert "1,500 steps" in comment_above(sltool.folder, "epochs")
    sltool("partition").ok()
    assert sltool("prepare").ok().out.startswith("already prepared")


def test_many_expected_samples_mean_larger_batches_and_fewer_epochs(sltool: Sltool) -> None:
    sltool("study", "new", "cholesterol", "--samples", 400_000).ok()
    training = study_in(sltool).training
    assert (training.batch_size, training.epochs) == (256, 12)
    assert "20,000 steps" in comment_above(sltool.folder, "epochs")


def test_a_study_made_without_data_is_not_fitted_to_the_first_site(
    sltool: Sltool, tmp_path: Path
) -> None:
    sltool("study", "new", "covid-ct", "--set", "dataset.size=32").ok()
    made = (sltool.folder / "study.yaml").read_bytes()
    assert study_in(sltool).recipe.samples == 2000
    source = two_classes(tmp_path / "slices", 20, ("non-COVID", "COVID"))
    sltool("prepare", "--source", source).ok()
    assert (sltool.folder / "study.yaml").read_bytes() == made


def test_a_study_from_python_is_fitted_when_it_is_prepared(tmp_path: Path) -> None:
    study = package.Study.create(tmp_path / "study", "cholesterol", progress=Silent())
    assert study.settings.training.batch_size == 32
    study.prepare()
    assert study.settings.training.batch_size == 16
    study = package.Study.create(
        tmp_path / "other", "cholesterol", recipe="paper", samples=9, progress=Silent()
    )
    assert study.settings.training.batch_size == 2048
    study = package.Study.create(
        tmp_path / "expected", "cholesterol", samples=16_000, progress=Silent()
    )
    study.prepare()
    assert study.settings.training.batch_size == 128


def test_what_a_person_changes_before_the_samples_are_counted_stays(tmp_path: Path) -> None:
    study = package.Study.create(tmp_path / "study", "cholesterol", progress=Silent())
    path = study.folder.study_file
    path.write_text(path.read_text().replace("epochs: 60", "epochs: 61  # agreed on in May"))
    study.prepare()
    assert (study.settings.training.batch_size, study.settings.training.epochs) == (16, 61)
    assert "epochs: 61  # agreed on in May" in path.read_text()


def test_typed_keys_win_and_the_epochs_fit_a_typed_batch_size(sltool: Sltool) -> None:
    sltool("prepare", "cholesterol", "--set", "training.batch_size=118").ok()
    study = study_in(sltool)
    assert (study.training.batch_size, study.training.epochs) == (118, 200)
    assert study.recipe.sized == ("epochs",)
    assert "rule" not in comment_above(sltool.folder, "batch_size")


@pytest.mark.parametrize("setting", ["training.batch_size=many", "training=3", "training=null"])
def test_a_typed_mistake_in_training_is_named(sltool: Sltool, setting: str) -> None:
    ran = sltool("prepare", "cholesterol", "--set", setting)
    assert ran.code == 2
    assert "training" in ran.err
    assert list(sltool.folder.iterdir()) == []


PAPER: dict[str, tuple[Any, ...]] = {
    "covid-ct": ((1, 64, 64), "covid-cnn", 100, 64),
    "mura": ((1, 224, 224), "vgg19", 50, 128),
    "cholesterol": ((7,), "mlp", 200, 2048),
}
PAPER_MODELS: dict[str, dict[str, Any]] = {
    "covid-ct": {"filters": [1, 32, 64, 128, 256], "activation": "sigmoid"},
    "mura": {"channels": 1, "activation": "relu"},
    "cholesterol": {"widths": [16, 64, 64], "activation": "leaky-relu"},
}


@pytest.mark.parametrize("dataset", PAPER)
def test_paper_is_the_papers_table_4(sltool: Sltool, dataset: str) -> None:
    sltool("study", "new", dataset, "--recipe", "paper").ok()
    study = study_in(sltool)
    training = study.training
    found = (study.samples.shape, study.model.name, training.epochs, training.batch_size)
    assert found == PAPER[dataset]
    model = study.model.settings()
    assert {key: model[key] for key in PAPER_MODELS[dataset]} == PAPER_MODELS[dataset]
    assert (study.model.cut, training.loss, training.schedule) == (1, "auto", "constant")
    assert (study.encoding.views, study.recipe.sized) == (1, ())
    assert study.recipe.name == "paper"


def test_an_unknown_recipe_lists_what_there_is(sltool: Sltool) -> None:
    for command in (["prepare"], ["study", "new"]):
        ran = sltool(*command, "cholesterol", "--recipe", "papr")
        assert ran.code == 2
        assert "unknown cholesterol recipe 'papr'; did you mean 'paper'?" in ran.err
        assert "one of best, paper" in ran.err
    assert list(sltool.folder.iterdir()) == []


def test_another_recipe_than_the_studys_is_refused(sltool: Sltool) -> None:
    sltool("prepare", "cholesterol").ok()
    sltool("prepare", "cholesterol", "--recipe", "best").ok()
    ran = sltool("prepare", "cholesterol", "--recipe", "paper")
    assert ran.code == 2
    assert "made from the recipe 'best', not from 'paper'" in ran.err


def test_a_study_from_before_there_were_recipes_is_prepared(trained: Sltool) -> None:
    path = trained.folder / "study.yaml"
    text = path.read_text()
    start, end = text.index("# Where the values of a new"), text.index("# The source of the samp")
    path.write_text(text[:start] + text[end:])
    before = path.read_bytes()
    trained("prepare", "--force").ok()
    assert path.read_bytes() == before
    ran = trained("prepare", "--recipe", "best")
    assert ran.code == 2
    assert "made without a recipe" in ran.err


def test_a_plugin_may_have_a_third_recipe(sltool: Sltool, tmp_path: Path) -> None:
    plugin = tmp_path / "lipids.py"
    plugin.write_text(THREE_RECIPES)
    command = ("prepare", "lipids", "--plugins-dir", plugin, "--recipe")
    ran = sltool(*command, "big")
    assert ran.code == 2
    assert "one of best, paper, private, small" in ran.err
    sltool(*command, "small").ok()
    study = study_in(sltool)
    assert study.model.settings()["widths"] == [4, 4]
    assert (study.training.optimizer, study.training.batch_size) == ("sgd", 8)
    assert (study.recipe.name, study.training.epochs) == ("small", 60)


def test_a_plugin_with_a_single_recipe_is_best(sltool: Sltool, tmp_path: Path) -> None:
    plugin = tmp_path / "lipids.py"
    plugin.write_text(OLD_PLUGIN)
    ran = sltool("prepare", "lipids", "--plugins-dir", plugin, "--recipe", "paper")
    assert ran.code == 2
    assert "one of best" in ran.err
    sltool("prepare", "lipids", "--plugins-dir", plugin).ok()
    study = study_in(sltool)
    assert study.model.settings()["widths"] == [8, 8]
    assert (study.training.epochs, study.training.batch_size) == (7, 16)
    assert study.recipe.name == "best"


def test_another_model_does_not_get_the_recipes_model_settings(sltool: Sltool) -> None:
    new = ("study", "new", "covid-ct", "--set", "model.name=resnet", "model.channels=4")
    sltool(*new).ok()
    study = study_in(sltool)
    assert (study.model.name, study.model.settings()["channels"]) == ("resnet", 4)
    assert "filters" not in study.model.settings()


def test_typed_nested_keys_do_not_reach_the_next_study(tmp_path: Path) -> None:
    """A recipe's mappings are shared by all studies of a process."""
    path = tmp_path / "one"
    package.Study.create(path, "covid-ct", settings={"encoding.views": 3}, progress=Silent())
    study = package.Study.create(tmp_path / "two", "covid-ct", progress=Silent())
    assert study.settings.encoding.views == 20
