"""Tables of lipids: the bundled patients, people's CSV files, units and refused rows."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sltool.datasets.cholesterol import PAPER_COLUMNS, STANDARD, Cholesterol, bundled_table
from sltool.study.layout import StudyFolder
from sltool.study.study_file import load_study
from tests.conftest import Sltool
from tests.datasets.stages import run_to_figures

Data = Callable[[str], Path]

# Mean and standard deviation of 29,537 persons of NHANES 2001-2020.
AGREED = {
    "age": (40.9, 22.0),
    "height": (165.4, 13.0),
    "weight": (76.4, 23.6),
    "TC": (184.2, 41.4),
    "HDL": (54.1, 15.3),
    "TG": (110.6, 65.2),
}
PERSON = {"age": 50, "sex": 1, "height_cm": 175, "weight_kg": 80, "TC": 190, "HDL": 50, "TG": 100}


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


def test_refused_rows_are_named_and_counted(sltool: Sltool, data: Data) -> None:
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


def test_a_changed_column_list_updates_the_study(sltool: Sltool, table: Path) -> None:
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


def write_table(path: Path, rows: list[dict[str, object]]) -> Path:
    pd.DataFrame([{**PERSON, "LDL": 120, **row} for row in rows]).to_csv(path, index=False)
    return path


def test_the_recipe_carries_the_agreed_means(sltool: Sltool) -> None:
    assert {name: STANDARD[name] for name in AGREED} == AGREED
    samples = Cholesterol(Cholesterol.Settings()).samples()
    assert samples.mean == (40.9, 1.5, 165.4, 76.4, 184.2, 54.1, 110.6)
    assert samples.sd == (22.0, 0.5, 13.0, 23.6, 41.4, 15.3, 65.2)


@pytest.mark.parametrize("name", ["korea_checkup_20000", "korea_checkup_dirty", "ldl_direct_1000"])
def test_the_real_tables_run_to_figures(
    sltool: Sltool, data: Data, tmp_path: Path, name: str
) -> None:
    some = tmp_path / f"{name}.csv"
    lines = data(f"cholesterol/{name}.csv").read_text().splitlines()[:1001]
    some.write_text("\n".join(lines))
    figures = run_to_figures(sltool, "cholesterol", "--source", some)
    assert {"rmsle", "smape", "msle", "male", "mae", "r2"} <= set(figures["metrics"])


def test_computed_ldl_is_noted(sltool: Sltool, data: Data) -> None:
    source = data("cholesterol/korea_checkup_20000.csv")
    done = sltool("prepare", "cholesterol", "--source", source, "--json").ok().json
    assert any("94% of the rows is Friedewald" in note for note in done["notes"])


def test_the_wrong_unit_is_refused_by_the_plausible_ranges(sltool: Sltool, tmp_path: Path) -> None:
    rows = [{"TC": 5.0, "HDL": 1.3, "TG": 1.5, "LDL": 3.0}] * 30
    source = write_table(tmp_path / "si.csv", rows)
    ran = sltool("prepare", "cholesterol", "--source", source)
    assert ran.code == 3
    assert "TC 5 is outside 20 to 1000 (mg/dL)" in ran.err


def test_a_missing_value_refuses_the_row(sltool: Sltool, tmp_path: Path) -> None:
    rows = [{"age": 20 + n} for n in range(30)]
    rows[3] = {"age": None}
    rows[5] = {"LDL": "n/a "}
    rows[7] = {"weight_kg": "eighty"}
    source = write_table(tmp_path / "a.csv", rows)
    done = sltool("prepare", "cholesterol", "--source", source, "--json")
    assert done.ok().json["refused"] == [
        {"record": "line 5", "reason": "age is missing or not a number"},
        {"record": "line 7", "reason": "LDL is missing or not a number"},
        {"record": "line 9", "reason": "weight is missing or not a number"},
    ]
