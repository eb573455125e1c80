"""New cases to predict: no dataset needs the label that nobody knows yet."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from sltool.datasets.base import Dataset, Scan
from sltool.datasets.cholesterol import Cholesterol
from sltool.datasets.covid_ct import CovidCT
from sltool.datasets.image_folder import ImageFolder
from sltool.datasets.mura import Mura
from sltool.datasets.table import Table
from sltool.errors import BadDataError
from tests.images import two_classes


def table(path: Path, rows: list[dict[str, object]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of images with names of patients, and no class folders."""
    classes = two_classes(tmp_path / "classes", 6, ("a", "b"), side=10)
    folder = tmp_path / "new"
    for index, path in enumerate(sorted(classes.glob("*/*.png"))):
        target = folder / f"patient{index // 2:05d}" / f"{index}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return folder


@pytest.mark.parametrize("kind", [CovidCT, Mura, ImageFolder])
def test_images_need_no_class_folders(kind: type[Dataset], pictures: Path) -> None:
    scan: Scan = kind(kind.Settings()).cases(pictures)
    assert len(scan) == len(list(pictures.rglob("*.png")))
    assert not scan.labels.any()
    assert not scan.refused
    assert "patient00000/0.png" in scan.records


def test_mura_keeps_the_patients_of_its_folders(pictures: Path) -> None:
    scan = Mura(Mura.Settings()).cases(pictures)
    assert set(scan.groups) == {folder.name for folder in pictures.iterdir()}


def test_a_folder_with_classes_is_a_source_of_cases_too(tmp_path: Path) -> None:
    source = two_classes(tmp_path / "ct", 6, ("non-COVID", "COVID"), side=10)
    scan = CovidCT(CovidCT.Settings()).cases(source)
    assert len(scan) == len(list(source.rglob("*.png")))
    assert not scan.labels.any()


def test_a_table_needs_neither_label_nor_split(tmp_path: Path) -> None:
    settings = Table.Settings.model_validate(
        {
            "headers": {"label": "ill", "patient": "id", "split": "split"},
            "label": {"classes": {"no": "no", "yes": "yes"}},
            "columns": {"x": {"mean": 0, "sd": 1}},
        }
    )
    source = table(tmp_path / "new.csv", [{"id": "P", "x": 1}, {"id": "P", "x": "none"}])
    scan = Table(settings).cases(source)
    assert (scan.groups, scan.labels.tolist(), len(scan.refused)) == (["P"], [0], 1)
    unnamed = Table(settings).cases(table(tmp_path / "unnamed.csv", [{"x": 1}]))
    assert unnamed.groups == unnamed.records


def test_cholesterol_needs_no_ldl(tmp_path: Path) -> None:
    row = {"age": 50, "sex": 1, "height": 170, "weight": 70, "TC": 200, "HDL": 50, "TG": 100}
    dataset = Cholesterol(Cholesterol.Settings(patient="id"))
    scan = dataset.cases(table(tmp_path / "new.csv", [row, {**row, "TG": ""}]))
    np.testing.assert_array_equal(scan.inputs, [list(row.values())])
    assert len(scan.refused) == 1


def test_cases_come_under_this_site_s_own_headers(tmp_path: Path) -> None:
    row = {"years": 50, "sex": 1, "height": 170, "weight": 70, "TC": 200, "HDL": 50, "TG": 100}
    bloods = Cholesterol(Cholesterol.Settings(patient="id"))
    bloods.local_columns = {"age": "years", "LDL": "LDL-C", "patient": "name"}
    scan = bloods.cases(table(tmp_path / "bloods.csv", [row]))
    np.testing.assert_array_equal(scan.inputs, [list(row.values())])
    settings = {
        "headers": {"label": "ill", "patient": "id"},
        "label": {"classes": {"no": "no", "yes": "yes"}},
        "columns": {"x": {"mean": 0, "sd": 1}},
    }
    any_table = Table(Table.Settings.model_validate(settings))
    any_table.local_columns = {"x": "marker", "ill": "outcome"}
    scan = any_table.cases(table(tmp_path / "any.csv", [{"id": "P", "marker": 3}]))
    assert scan.inputs.tolist() == [[3]]
    with pytest.raises(BadDataError, match="the table has no column 'marker'"):
        any_table.cases(table(tmp_path / "other.csv", [{"id": "P", "outcome": "no"}]))
