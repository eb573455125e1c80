"""The front door: what `import sltool` gives a notebook."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import sltool
from sltool.errors import StageOrderError, StudyMismatchError, UnknownNameError
from sltool.progress import Silent


@pytest.fixture
def study(tmp_path: Path) -> sltool.Study:
    made = sltool.Study.create(
        tmp_path / "study",
        "cholesterol",
        settings={"training.epochs": 3, "model.widths": [8, 8]},
        seed=0,
        progress=Silent(),
    )
    made.prepare()
    made.partition((2, 1))
    return made


def trained(study: sltool.Study) -> sltool.Run:
    study.encode()
    study.ship()
    return study.train()


def test_settings_become_keys_of_the_study_file(study: sltool.Study) -> None:
    assert study.settings.training.epochs == 3
    assert study.sites == study.local_sites == ["A", "B"]
    assert "cholesterol" in repr(study)


def test_a_run_gives_its_history_figures_and_predictions(study: sltool.Study) -> None:
    run = trained(study)
    assert list(run.history.index) == [1, 2, 3]
    figures = run.evaluate(["smape", "mae"], by="site")
    assert list(figures.index) == ["all", "A", "B"]
    bounds = ["smape low", "smape high", "mae low", "mae high"]
    assert list(figures.columns) == ["samples", "smape", "mae", *bounds]
    assert (
        figures.loc["A", "samples"] + figures.loc["B", "samples"] == figures.loc["all", "samples"]
    )
    predictions = run.predictions
    errors = (predictions["y_true"] - predictions["y_pred"]).abs()
    assert errors.mean() == pytest.approx(figures.loc["all", "mae"])
    assert "3 epochs" in repr(run)


def test_runs_are_compared_in_one_table(study: sltool.Study) -> None:
    trained(study).evaluate()
    alone = study.train("alone", sites=["B"])
    alone.evaluate()
    table = study.compare("alone", "default")
    assert isinstance(table, pd.DataFrame)
    assert list(table.index) == ["alone", "default"]
    assert table.loc["alone", "sites"] == "B"


def test_feature_maps_have_labels_and_pseudonyms(study: sltool.Study) -> None:
    trained(study)
    of_both, of_b = study.feature_maps("test"), study.site("B").feature_maps("test")
    assert 0 < len(of_b) < len(of_both)
    assert set(of_b.sites) == {"B"}
    assert of_b.maps.shape == (len(of_b), 8)
    assert of_b.maps.dtype == np.float32
    assert len(of_b.labels) == len(of_b)
    assert all(len(pseudonym) == 32 for pseudonym in of_b.pseudonyms)


def test_what_was_shipped_elsewhere_is_fetched_and_taken_in(
    study: sltool.Study, tmp_path: Path
) -> None:
    study.encode()
    study.ship(str(tmp_path / "disk"))
    shipped = sorted(path.name for path in (tmp_path / "disk").glob("*.h5"))
    fetched = study.fetch(tmp_path / "disk")
    assert (fetched.files, fetched.before) == (shipped, 0)
    assert study.fetch(tmp_path / "disk").before == len(shipped)
    assert len(study.take_in().accepted) == len(shipped)


def test_errors_are_those_of_the_command_line(study: sltool.Study, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown site"):
        study.site("Z")
    with pytest.raises(StageOrderError):
        study.ship()
    with pytest.raises(StageOrderError):
        study.feature_maps()
    with pytest.raises(StageOrderError):
        sltool.Study.open(tmp_path)
    with pytest.raises(StudyMismatchError):
        sltool.Study.create(study.path, "covid-ct", progress=Silent())


def test_importing_the_package_is_cheap() -> None:
    program = (
        "import sys, sltool; sltool.Study; "
        "print(*{'torch', 'pandas', 'sklearn'} & set(sys.modules))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == []


def test_the_package_has_types() -> None:
    assert (Path(sltool.__file__).parent / "py.typed").is_file()
    assert set(sltool.__all__) <= set(dir(sltool))
    with pytest.raises(AttributeError, match="no attribute 'Stduy'"):
        sltool.Stduy  # noqa: B018
