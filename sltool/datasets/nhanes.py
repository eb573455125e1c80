"""Reading NHANES from the CDC's XPT files: https://wwwn.cdc.gov/nchs/nhanes/.

A cycle (two years) is a set of files with the same suffix: DEMO_H.XPT, BMX_H.XPT, TCHOL_H.XPT,
HDL_H.XPT and TRIGLY_H.XPT are 2013-14. The variables are looked up in all files of a cycle, since
the files had other names before 2005 (LAB13AM, L13_B).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from sltool.errors import BadDataError

PERSON = "SEQN"
CYCLE = "cycle"
# Our name -> NHANES' variables; a cycle has one of them.
VARIABLES: dict[str, tuple[str, ...]] = {
    "age": ("RIDAGEYR",),
    "sex": ("RIAGENDR",),
    "height": ("BMXHT",),
    "weight": ("BMXWT",),
    "bmi": ("BMXBMI",),
    "TC": ("LBXTC",),
    "HDL": ("LBDHDD", "LBXHDD", "LBDHDL"),
    "TG": ("LBXTR", "LBXTLG"),
    "LDL": ("LBDLDL",),
}
# Variable in mg/dL -> its twin in mmol/L, for checking the unit.
SI_TWINS = {
    "LBXTC": "LBDTCSI",
    "LBDHDD": "LBDHDDSI",
    "LBXHDD": "LBDHDDSI",
    "LBDHDL": "LBDHDLSI",
    "LBXTR": "LBDTRSI",
    "LBXTLG": "LBDTLGSI",
    "LBDLDL": "LBDLDLSI",
}
# NHANES rounds both values of a pair: they may differ by 0.5 mg/dL or 1 %.
TOLERANCE = 0.01
UNIT_LIMIT = 0.01

LDL_NOTE = (
    "NHANES' LBDLDL is computed with Friedewald's formula (LDL = TC - HDL - TG/5), not measured: "
    "the network only has to find that formula"
)
HELP = "a folder of NHANES files: DEMO_H.XPT, BMX_H.XPT, TCHOL_H.XPT, HDL_H.XPT, TRIGLY_H.XPT ..."


def read_nhanes(
    folder: Path, columns: Sequence[str], mg_per_mmol: dict[str, float]
) -> tuple[pd.DataFrame, list[str], list[str]]:
    """Join the files of every cycle on SEQN.

    Args:
        columns: our names of the columns to read.
        mg_per_mmol: mg/dL in one mmol/L, for the columns that have both units.

    Returns:
        The table, a row for each person who is in all needed files, lipids in mg/dL, with the
        column 'cycle' in addition; the records; and notes.

    Raises:
        BadDataError: there are no XPT files, a cycle lacks a variable, or the unit is not mg/dL.
    """
    unknown = [name for name in columns if name not in VARIABLES]
    if unknown:
        raise BadDataError(
            f"no NHANES variable is known for the column {', '.join(unknown)}",
            where=folder,
            expected=f"columns among {', '.join(VARIABLES)}",
            hint="take it out of dataset.columns in study.yaml",
        )
    cycles = nhanes_cycles(folder)
    if not cycles:
        raise BadDataError("there is no XPT file", where=folder, expected=HELP)
    tables, notes = [], [LDL_NOTE]
    for name, files in cycles.items():
        table, everyone = _read_cycle(name, files, columns, mg_per_mmol)
        notes.append(
            f"cycle {name}: {len(table)} of {everyone} persons are in every file that is needed "
            "(LDL is measured in a fasting part of them)"
        )
        tables.append(table.assign(**{CYCLE: name}))
    joined = pd.concat(tables, ignore_index=True)
    twice = joined[PERSON].duplicated()
    if twice.any():
        notes.append(f"{twice.sum()} persons are in two cycles: used once")
        joined = joined[~twice].reset_index(drop=True)
    return joined, [f"{PERSON} {person:.0f}" for person in joined.pop(PERSON)], notes


def nhanes_cycles(folder: Path) -> dict[str, list[Path]]:
    """Cycle -> its XPT files.

    The name is the letter at the end ('H'), 'P' in front (2017-2020), or '1999-2000' for neither.
    """
    cycles: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() == ".xpt" and path.is_file():
            stem = path.stem.upper()
            found = re.fullmatch(r"(P)_.+|.+_([A-Z])", stem)
            cycles[(found[1] or found[2]) if found else "1999-2000"].append(path)
    return dict(sorted(cycles.items()))


def _read_cycle(
    name: str, files: list[Path], columns: Sequence[str], mg_per_mmol: dict[str, float]
) -> tuple[pd.DataFrame, int]:
    """The persons who are in all needed files, and how many are in any of them."""
    frames = {path: _read_xpt(path) for path in files}
    joined: pd.DataFrame | None = None
    found: set[str] = set()
    everyone: set[float] = set()
    for path, frame in frames.items():
        wanted = {
            variable: column
            for column in columns
            for variable in [name for name in VARIABLES[column] if name in frame.columns][:1]
            if column not in found
        }
        if not wanted:
            continue
        for variable, column in wanted.items():
            _check_unit(path, frame, variable, mg_per_mmol.get(column))
        found.update(wanted.values())
        part = frame[[PERSON, *wanted]].rename(columns=wanted)
        everyone.update(part[PERSON])
        joined = part if joined is None else joined.merge(part, on=PERSON, validate="1:1")
    missing = [column for column in columns if column not in found]
    if joined is None or missing:
        variables = [" or ".join(VARIABLES[column]) for column in missing]
        raise BadDataError(
            f"cycle {name} has no variable {', '.join(variables)}",
            where=files[0].parent,
            expected=f"{HELP}; this cycle has {', '.join(path.name for path in files)}",
            hint="fetch the missing files, or take the cycle's files out of the folder",
        )
    return joined, len(everyone)


def _read_xpt(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_sas(path, format="xport")
    except (ValueError, OSError, UnicodeDecodeError) as error:
        raise BadDataError(f"the file is not in SAS' XPT format: {error}", where=path) from error
    if PERSON not in frame.columns:
        raise BadDataError(f"the file has no {PERSON}, the person's id", where=path)
    if frame[PERSON].duplicated().any():
        twice = frame[PERSON][frame[PERSON].duplicated()].iloc[0]
        raise BadDataError(f"{PERSON} {twice:.0f} occurs twice", where=path)
    return frame


def _check_unit(path: Path, frame: pd.DataFrame, variable: str, mg_per_mmol: float | None) -> None:
    """Raise `BadDataError` unless the values are mg/dL, judged by their twins in mmol/L."""
    twin = SI_TWINS.get(variable)
    if mg_per_mmol is None or twin not in frame.columns:
        return
    pair = frame[[variable, twin]].dropna().to_numpy(dtype=float)
    if not len(pair):
        return
    expected = pair[:, 1] * mg_per_mmol
    wrong = np.abs(pair[:, 0] - expected) > np.maximum(TOLERANCE * expected, 0.5)
    if wrong.mean() > UNIT_LIMIT:
        first = int(np.flatnonzero(wrong)[0])
        raise BadDataError(
            f"{variable} is not in mg/dL: {wrong.sum()} of {len(pair)} values do not fit {twin}",
            where=path,
            expected=f"{mg_per_mmol} times {twin}: {expected[first]:.1f}, not {pair[first, 0]:g}",
            hint="fetch the file again from the CDC",
        )
