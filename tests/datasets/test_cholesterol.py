"""Cholesterol: CSV files and NHANES' own files, from the source to figures."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from sltool.datasets.cholesterol import STANDARD, Cholesterol
from sltool.datasets.nhanes import nhanes_cycles, read_nhanes
from sltool.errors import BadDataError
from tests.conftest import Sltool

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


def table(path: Path, rows: list[dict[str, object]]) -> Path:
    pd.DataFrame([{**PERSON, "LDL": 120, **row} for row in rows]).to_csv(path, index=False)
    return path


def prepared(sltool: Sltool) -> tuple[np.ndarray, np.ndarray]:
    with h5py.File(sltool.folder / "prepared.h5") as file:
        return file["inputs"][:], file["labels"][:]


def run_to_figures(sltool: Sltool, *prepare: object) -> dict[str, float]:
    settings = ("--set", "training.epochs=3", "--set", "training.batch_size=256")
    sltool("prepare", "cholesterol", *prepare, *settings).ok()
    sltool("partition").ok()
    sltool("client-encode").ok()
    sltool("ship").ok()
    sltool("server-train").ok()
    metrics: dict[str, float] = sltool("evaluate", "--json").ok().json["metrics"]
    assert {"rmsle", "smape", "msle", "male", "mae", "r2"} <= set(metrics)
    return metrics


def test_the_recipe_carries_the_agreed_means(sltool: Sltool) -> None:
    assert {name: STANDARD[name] for name in AGREED} == AGREED
    samples = Cholesterol(Cholesterol.Settings()).samples()
    assert samples.mean == (40.9, 1.5, 165.4, 76.4, 184.2, 54.1, 110.6)
    assert samples.sd == (22.0, 0.5, 13.0, 23.6, 41.4, 15.3, 65.2)


@pytest.mark.parametrize("name", ["korea_checkup_20000", "korea_checkup_dirty", "ldl_direct_1000"])
def test_the_real_tables_run_to_figures(
    sltool: Sltool, data: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    some = tmp_path / f"{name}.csv"
    lines = data(f"cholesterol/{name}.csv").read_text().splitlines()[:1001]
    some.write_text("\n".join(lines))
    assert run_to_figures(sltool, "--source", some)["mae"] < 100


def test_nhanes_runs_to_figures(sltool: Sltool, data: Callable[[str], Path]) -> None:
    assert run_to_figures(sltool, "--source", data("nhanes"))["mae"] < 100


def test_outliers_are_refused_with_all_that_is_wrong(
    sltool: Sltool, data: Callable[[str], Path]
) -> None:
    source = data("cholesterol/korea_checkup_dirty.csv")
    done = sltool("prepare", "cholesterol", "--source", source, "--json").ok().json
    reasons = {one["record"]: one["reason"] for one in done["refused"]}
    assert "HDL 8110 is outside 2 to 250 (mg/dL)" in reasons["line 492"]
    assert "LDL 5119" in reasons["line 492"]


def test_a_table_without_who_the_patient_is_makes_a_smaller_network(
    sltool: Sltool, data: Callable[[str], Path]
) -> None:
    source = data("cholesterol/ldl_direct_1000.csv")
    done = sltool("prepare", "cholesterol", "--source", source, "--json").ok().json
    assert done["samples"] == 1000
    assert any("no sex, height, weight" in note for note in done["notes"])
    assert not any("Friedewald" in note for note in done["notes"])
    assert prepared(sltool)[0].shape == (1000, 4)


def test_computed_ldl_is_told(sltool: Sltool, data: Callable[[str], Path]) -> None:
    source = data("cholesterol/korea_checkup_20000.csv")
    done = sltool("prepare", "cholesterol", "--source", source, "--json").ok().json
    assert any("94% of the rows is Friedewald" in note for note in done["notes"])


def test_mmol_per_litre_becomes_mg_per_decilitre(sltool: Sltool, tmp_path: Path) -> None:
    source = table(tmp_path / "si.csv", [{"TC": 5.0, "HDL": 1.3, "TG": 1.5, "LDL": 3.0}] * 30)
    sltool("prepare", "cholesterol", "--source", source, "--set", "dataset.units=mmol/L").ok()
    inputs, labels = prepared(sltool)
    np.testing.assert_allclose(inputs[0, 4:], [5 * 38.67, 1.3 * 38.67, 1.5 * 88.57], rtol=1e-6)
    np.testing.assert_allclose(labels[0], 3 * 38.67, rtol=1e-6)


def test_the_wrong_unit_is_refused_by_the_plausible_ranges(sltool: Sltool, tmp_path: Path) -> None:
    source = table(tmp_path / "si.csv", [{"TC": 5.0, "HDL": 1.3, "TG": 1.5, "LDL": 3.0}] * 30)
    ran = sltool("prepare", "cholesterol", "--source", source)
    assert ran.code == 3
    assert "TC 5 is outside 20 to 1000 (mg/dL)" in ran.err


def test_a_missing_value_refuses_the_row(sltool: Sltool, tmp_path: Path) -> None:
    rows = [{"age": 20 + n} for n in range(30)]
    rows[3] = {"age": None}
    rows[5] = {"LDL": "n/a "}
    rows[7] = {"weight_kg": "eighty"}
    done = sltool("prepare", "cholesterol", "--source", table(tmp_path / "a.csv", rows), "--json")
    assert done.ok().json["refused"] == [
        {"record": "line 5", "reason": "age is missing or not a number"},
        {"record": "line 7", "reason": "LDL is missing or not a number"},
        {"record": "line 9", "reason": "weight is missing or not a number"},
    ]


def test_a_column_map_and_patients_with_several_rows(sltool: Sltool, tmp_path: Path) -> None:
    source = table(tmp_path / "a.csv", [{"age": 30, "mrn": n // 2} for n in range(60)])
    frame = pd.read_csv(source).rename(columns={"TC": "Cholesterin", "age": "Alter"})
    frame.to_csv(source, index=False)
    settings = (
        *("--set", "dataset.columns=[age, TC, HDL, TG]", "--set", "dataset.patient=mrn"),
        *("--set", "dataset.headers={TC: Cholesterin, age: Alter}"),
    )
    sltool("prepare", "cholesterol", "--source", source, *settings).ok()
    with h5py.File(sltool.folder / "prepared.h5") as file:
        assert len(set(file["groups"].asstr()[:])) == 30


def test_nhanes_joins_the_cycles_by_person_and_tells_the_truth(
    data: Callable[[str], Path],
) -> None:
    folder = data("nhanes")
    assert list(nhanes_cycles(folder)) == ["H", "I"]
    columns = ("age", "sex", "height", "weight", "TC", "HDL", "TG", "LDL")
    found, records, notes = read_nhanes(folder, columns, {"TC": 38.67, "HDL": 38.67, "TG": 88.57})
    assert set(found.columns) == set(columns)
    assert len(found) == len(set(records)) == 3329 + 3191
    assert "Friedewald" in notes[0]
    person = found.iloc[records.index("SEQN 83733")]
    assert (person["TC"], person["HDL"], person["TG"], person["LDL"]) == (265, 63, 147, 173)


@pytest.mark.parametrize("broken", ["missing", "cut", "unit", "empty"])
def test_what_is_wrong_with_nhanes_files_is_named(
    sltool: Sltool, data: Callable[[str], Path], tmp_path: Path, broken: str
) -> None:
    folder = tmp_path / "nhanes"
    folder.mkdir()
    for path in data("nhanes").glob("*_H.XPT"):
        if broken != "empty":
            (folder / path.name).write_bytes(path.read_bytes())
    expected = {
        "missing": "no variable LBXTC",
        "cut": "XPT",
        "unit": "LBXTC is not in mg/dL",
        "empty": "no XPT file",
    }[broken]
    if broken == "missing":
        (folder / "TCHOL_H.XPT").unlink()
    elif broken == "cut":
        (folder / "HDL_H.XPT").write_bytes(b"<html>page not found</html>")
    elif broken == "unit":
        swap_columns(folder / "TCHOL_H.XPT", "LBXTC", "LBDTCSI")
    ran = sltool("prepare", "cholesterol", "--source", folder)
    assert ran.code == 3
    assert expected in ran.err


def swap_columns(path: Path, one: str, other: str) -> None:
    """Exchange two variables' names in a SAS XPORT file: so one has the other's unit."""
    raw = path.read_bytes()
    first, second = struct.pack("8s", one.encode()), struct.pack("8s", other.encode())
    first, second = first.replace(b"\0", b" "), second.replace(b"\0", b" ")
    assert first in raw
    raw = raw.replace(first, b"--------").replace(second, first).replace(b"--------", second)
    path.write_bytes(raw)


def test_a_person_in_two_cycles_counts_once(data: Callable[[str], Path], tmp_path: Path) -> None:
    # As in 2017-2020 (P), which holds the persons of 2017-18 (J) again.
    for path in data("nhanes").glob("*_H.XPT"):
        (tmp_path / path.name.replace("_H", "_J")).symlink_to(path)
        (tmp_path / f"P_{path.name.replace('_H', '')}").symlink_to(path)
    found, records, notes = read_nhanes(tmp_path, ("age", "LDL"), {})
    assert len(found) == len(set(records)) == 3329
    assert "3329 persons stand in two cycles: taken once" in notes


def test_a_column_that_nhanes_lacks_is_told(data: Callable[[str], Path]) -> None:
    with pytest.raises(BadDataError, match="no column bp"):
        read_nhanes(data("nhanes"), ("age", "bp"), {})


def test_older_cycles_and_other_names_are_found(tmp_path: Path) -> None:
    for name in ("DEMO", "LAB13AM", "DEMO_B", "L13_B", "P_DEMO", "P_HDL", "DEMO_J"):
        (tmp_path / f"{name}.XPT").touch()
    found = {
        cycle: [path.stem for path in files] for cycle, files in nhanes_cycles(tmp_path).items()
    }
    assert found == {
        "1999-2000": ["DEMO", "LAB13AM"],
        "B": ["DEMO_B", "L13_B"],
        "J": ["DEMO_J"],
        "P": ["P_DEMO", "P_HDL"],
    }
