"""Tables of lipids: the bundled patients, people's CSV files, units and refused rows."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sltool.datasets.cholesterol import PAPER_COLUMNS, bundled_table
from sltool.layout import StudyFolder
from sltool.study import load_study
from tests.conftest import Sltool

Data = Callable[[str], Path]


def test_the_bundled_ldl_is_friedewalds() -> None:
    table, records, notes = bundled_table()
    error = table["TC"] - table["HDL"] - table["TG"] / 5 - table["LDL"]
    assert error.abs().median() < 0.01
    assert len(records) == len(table) == 442
    assert "Friedewald" in notes[0]


def test_korean_check_ups_have_all_the_papers_columns(sltool: Sltool, data: Data) -> None:
    source = data("cholesterol/korea_checkup_20000.csv")
    done = sltool("prepare", "cholesterol", "--source", source, "--json").ok().json
    assert done["samples"] == 20_000
    assert load_study(StudyFolder(sltool.folder)).samples.shape == (len(PAPER_COLUMNS),)


def test_a_table_without_body_measures(sltool: Sltool, data: Data) -> None:
    source = data("cholesterol/ldl_direct_1000.csv")
    done = sltool("prepare", "cholesterol", "--source", source, "--json").ok().json
    assert done["samples"] + len(done["refused"]) == 1000
    assert "the table has no sex, height, weight" in done["notes"][0]
    study = load_study(StudyFolder(sltool.folder))
    assert study.dataset.settings()["columns"] == ["age", "TC", "HDL", "TG"]
    assert study.samples.shape == (4,)


def test_dirty_rows_are_named_and_counted(sltool: Sltool, data: Data) -> None:
    source = data("cholesterol/korea_checkup_dirty.csv")
    ran = sltool("prepare", "cholesterol", "--source", source)
    lines = pd.read_csv(source)
    with (sltool.folder / "refused.csv").open() as file:
        refused = {row["record"]: row["reason"] for row in csv.DictReader(file)}
    worst = int(lines["HDL"].idxmax()) + 2
    assert "HDL 8110 is outside 2 to 250 (mg/dL)" in refused[f"line {worst}"]
    assert f"prepared {len(lines) - len(refused)} samples; {len(refused)} refused" in ran.ok().out
    low_high = {"TC": (20, 1000), "HDL": (2, 250), "TG": (5, 5000), "LDL": (1, 900)}
    bad = np.zeros(len(lines), dtype=bool)
    for name, (low, high) in low_high.items():
        bad |= ~lines[name].between(low, high)
    assert len(refused) == bad.sum() > 0


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    rows = 40
    frame = pd.DataFrame(
        {
            "Alter": rng.integers(30, 70, rows),
            "TC": rng.uniform(4, 7, rows).round(2),
            "HDL": rng.uniform(1, 2, rows).round(2),
            "TG": rng.uniform(0.6, 2, rows).round(2),
            "LDL": rng.uniform(2, 4, rows).round(2),
            "person": np.arange(rows) // 2,
        }
    )
    frame.loc[3, "HDL"] = np.nan
    path = tmp_path / "table.csv"
    frame.astype(object).where(frame.notna(), "n/a?").to_csv(path, index=False)
    return path


def test_column_map_units_and_several_rows_a_patient(sltool: Sltool, table: Path) -> None:
    ran = sltool(
        "prepare",
        "cholesterol",
        "--source",
        table,
        "--set",
        "dataset.columns=[age, TC, HDL, TG]",
        "dataset.headers={age: Alter}",
        "dataset.units=mmol/L",
        "dataset.patient=person",
    )
    assert "refused line 5: HDL is missing or not a number" in ran.ok().out
    import h5py

    with h5py.File(sltool.folder / "prepared.h5") as file:
        inputs, groups = file["inputs"][:], file["groups"].asstr()[:]
    frame = pd.read_csv(table)
    assert inputs[0, 1] == pytest.approx(frame["TC"][0] * 38.67, rel=1e-6)
    assert inputs[0, 3] == pytest.approx(frame["TG"][0] * 88.57, rel=1e-6)
    assert len(inputs) == 39
    assert len(set(groups)) == 20


def test_a_changed_column_list_is_brought_into_the_study(sltool: Sltool, table: Path) -> None:
    sltool("prepare", "cholesterol").ok()
    study = sltool.folder / "study.yaml"
    study.write_text(study.read_text().replace('"bmi", "bp", ', ""))
    ran = sltool("prepare", "cholesterol").ok()
    assert "`samples` was brought in line" in ran.err
    assert load_study(StudyFolder(sltool.folder)).samples.shape == (5,)
    sltool("partition").ok()
    study.write_text(study.read_text().replace('"age", "sex"', '"age"'))
    ran = sltool("prepare", "cholesterol")
    assert ran.code == 6
    assert "does not follow from the `dataset` section" in ran.err
