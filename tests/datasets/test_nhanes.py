"""NHANES' own files: joined by person, units checked, defects named."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from sltool.datasets.nhanes import nhanes_cycles, read_nhanes
from sltool.errors import BadDataError
from tests.conftest import Sltool
from tests.datasets.stages import run_to_figures

Data = Callable[[str], Path]


def test_nhanes_runs_to_figures(sltool: Sltool, data: Data) -> None:
    figures = run_to_figures(sltool, "cholesterol", "--source", data("nhanes"))
    assert figures["metrics"]["mae"] < 30


def test_nhanes_joins_the_cycles_by_person(
    data: Data,
) -> None:
    folder = data("nhanes")
    assert list(nhanes_cycles(folder)) == ["H", "I"]
    columns = ("age", "sex", "height", "weight", "TC", "HDL", "TG", "LDL")
    found, records, notes = read_nhanes(folder, columns, {"TC": 38.67, "HDL": 38.67, "TG": 88.57})
    assert set(found.columns) == {*columns, "cycle"}
    assert len(found) == len(set(records)) == 3329 + 3191
    assert "Friedewald" in notes[0]
    person = found.iloc[records.index("SEQN 83733")]
    assert (person["TC"], person["HDL"], person["TG"], person["LDL"]) == (265, 63, 147, 173)


@pytest.mark.parametrize("broken", ["missing", "cut", "unit", "empty"])
def test_what_is_wrong_with_nhanes_files_is_named(
    sltool: Sltool, data: Data, tmp_path: Path, broken: str
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


def swap_columns(path: Path, first_name: str, other: str) -> None:
    """Exchange two variables' names in a SAS XPORT file: so one has the other's unit."""
    raw = path.read_bytes()
    first, second = struct.pack("8s", first_name.encode()), struct.pack("8s", other.encode())
    first, second = first.replace(b"\0", b" "), second.replace(b"\0", b" ")
    assert first in raw
    raw = raw.replace(first, b"--------").replace(second, first).replace(b"--------", second)
    path.write_bytes(raw)


def test_a_person_in_two_cycles_counts_once(data: Data, tmp_path: Path) -> None:
    # As in 2017-2020 (P), which holds the persons of 2017-18 (J) again.
    for path in data("nhanes").glob("*_H.XPT"):
        (tmp_path / path.name.replace("_H", "_J")).symlink_to(path)
        (tmp_path / f"P_{path.name.replace('_H', '')}").symlink_to(path)
    found, records, notes = read_nhanes(tmp_path, ("age", "LDL"), {})
    assert len(found) == len(set(records)) == 3329
    assert "3329 persons are in two cycles: used once" in notes


def test_a_column_that_nhanes_lacks_is_refused(data: Data) -> None:
    with pytest.raises(BadDataError, match="the column bp"):
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
