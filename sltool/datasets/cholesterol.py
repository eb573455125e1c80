"""LDL cholesterol from a table (the paper's cholesterol case)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from sltool.datasets.base import (
    REGRESSION_PROTECTION,
    TABLE_TRAINING,
    Dataset,
    Refused,
    Scan,
    protected,
)
from sltool.datasets.nhanes import CYCLE, nhanes_cycles, read_nhanes
from sltool.datasets.table_files import no_columns, no_local_columns
from sltool.errors import BadDataError, StudyFileError, UsageError
from sltool.registry import datasets
from sltool.study.schema import Labels, Positive, Samples, Section

TARGET = "LDL"

# Means and standard deviations of 29,537 persons of NHANES 2001-2020; for sex, the middle and half
# the distance of its two codes; for bmi and blood pressure, round clinical values.
STANDARD: dict[str, tuple[float, float]] = {
    "age": (40.9, 22.0),
    "sex": (1.5, 0.5),
    "height": (165.4, 13.0),
    "weight": (76.4, 23.6),
    "bmi": (27.0, 6.0),
    "bp": (95.0, 14.0),
    "TC": (184.2, 41.4),
    "HDL": (54.1, 15.3),
    "TG": (110.6, 65.2),
    TARGET: (108.0, 35.0),
}
# Physiologically possible values; a value outside is a typing or unit mistake.
PLAUSIBLE: dict[str, tuple[float, float]] = {
    "age": (0, 120),
    "sex": (1, 2),
    "height": (40, 250),
    "weight": (2, 400),
    "bmi": (8, 100),
    "bp": (30, 200),
    "TC": (20, 1000),
    "HDL": (2, 250),
    "TG": (5, 5000),
    TARGET: (1, 900),
}
UNITS = {"age": "years", "sex": "1 male, 2 female", "height": "cm", "weight": "kg", "bp": "mmHg"}
MG_PER_MMOL = {"TC": 38.67, "HDL": 38.67, TARGET: 38.67, "TG": 88.57}

LIPIDS = ("TC", "HDL", "TG")
PAPER_COLUMNS = ("age", "sex", "height", "weight", *LIPIDS)
BUNDLED_COLUMNS = ("age", "sex", "bmi", "bp", *LIPIDS)
KNOWN_HEADERS = {"height": "height_cm", "weight": "weight_kg"}

BEST: Mapping[str, Any] = {
    "model": {"name": "mlp", "widths": [64, 128, 128]},
    "encoding": {"dtype": "float32"},
    "training": TABLE_TRAINING,
}


@datasets.register("cholesterol")
class Cholesterol(Dataset):
    """LDL from age, sex, body measures and lipids: a CSV file, NHANES, or 442 bundled patients."""

    class Settings(Section):
        columns: tuple[str, ...] = Field(
            default=PAPER_COLUMNS,
            min_length=1,
            description="The columns the network sees, in this order.",
        )
        headers: dict[str, str] = Field(
            default={},
            description="Column map: our name -> the header in the file, where they differ.",
        )
        patient: str | None = Field(
            default=None,
            description="Header of the patient's id, if a patient has several rows.",
        )
        units: Literal["mg/dL", "mmol/L"] = Field(
            default="mg/dL",
            description="Unit of the lipids in a CSV file; mmol/L is converted to mg/dL.",
        )
        plausible: dict[str, tuple[float, float]] = Field(
            default=PLAUSIBLE,
            description="A row with a value outside its column's range (mg/dL, cm, kg, years, "
            "mmHg) or with a missing value is refused.",
        )
        standard: dict[str, tuple[float, Positive]] = Field(
            default=STANDARD,
            description="Mean and standard deviation of each column, agreed on (NHANES), never "
            "computed from a site's data.",
        )

    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "best": BEST,
        "private": protected(BEST, REGRESSION_PROTECTION),
        "paper": {
            "model": {"name": "mlp", "widths": [16, 64, 64]},
            "training": {"epochs": 200, "batch_size": 2048, "learning_rate": 0.01},
        },
    }
    needs_source = False
    source_help = (
        "a CSV file with the columns age, sex, height_cm, weight_kg, TC, HDL, TG and LDL "
        "(or a column map under dataset.headers in study.yaml), or a folder of NHANES' XPT files"
    )

    settings: Settings

    @classmethod
    def infer_settings(
        cls, source: Path | None, given: Mapping[str, Any]
    ) -> tuple[dict[str, Any], list[str]]:
        if source is None:
            return {"columns": list(BUNDLED_COLUMNS)}, []
        if source.is_dir():
            if not nhanes_cycles(source):
                raise BadDataError(
                    "the folder has no XPT file", where=source, expected=cls.source_help
                )
            return {}, []
        present = set(_read_csv(source, rows=0).columns)
        headers = {ours: theirs for ours, theirs in KNOWN_HEADERS.items() if theirs in present}
        # Only columns that describe the person may be absent; LDL is predicted from the lipids.
        absent = [
            name
            for name in PAPER_COLUMNS
            if name not in LIPIDS and headers.get(name, name) not in present
        ]
        columns = [name for name in PAPER_COLUMNS if name not in absent]
        notes = [f"the table has no {', '.join(absent)}: the study leaves it out"] if absent else []
        return {"columns": columns, "headers": headers}, notes

    def samples(self) -> Samples:
        used = self.settings.standard
        missing = [name for name in (*self.settings.columns, TARGET) if name not in used]
        if missing:
            raise StudyFileError(
                f"dataset.standard has no mean and standard deviation for {', '.join(missing)}",
                expected="[mean, sd] for every name in dataset.columns",
            )
        pairs = [used[name] for name in self.settings.columns]
        return Samples(
            shape=(len(pairs),),
            mean=tuple(mean for mean, _ in pairs),
            sd=tuple(sd for _, sd in pairs),
            labels=Labels(
                kind="regression", unit="mg/dL", mean=used[TARGET][0], sd=used[TARGET][1]
            ),
        )

    def scan(self, source: Path | None) -> Scan:
        return self._scan(source, (*self.settings.columns, TARGET))

    def cases(self, source: Path | None) -> Scan:
        """As `scan`; the source needs no LDL."""
        scan = self._scan(source, self.settings.columns)
        return replace(scan, notes=[])

    def _scan(self, source: Path | None, names: tuple[str, ...]) -> Scan:
        """Read the columns of these names; without LDL the labels are 0."""
        table, records, notes, others = self._table(source, names)
        values = table[list(names)]
        reasons = self._reasons(values)
        good = [row for row, reason in enumerate(reasons) if not reason]
        array = values.to_numpy(dtype=np.float32)[good]
        patients = table["patient"].astype(str).tolist() if "patient" in table else records
        inputs = array[:, : len(self.settings.columns)]
        labels = array[:, -1] if TARGET in names else np.zeros(len(array), np.float32)
        return Scan(
            inputs=np.ascontiguousarray(inputs),
            labels=np.ascontiguousarray(labels),
            records=[records[row] for row in good],
            groups=[patients[row] for row in good],
            columns={name: [texts[row] for row in good] for name, texts in others.items()},
            refused=[Refused(records[row], reason) for row, reason in enumerate(reasons) if reason],
            notes=notes,
        )

    def _table(
        self, source: Path | None, names: tuple[str, ...]
    ) -> tuple[pd.DataFrame, list[str], list[str], dict[str, list[str]]]:
        """The columns of these names, lipids in mg/dL; the rows' names; notes; the others.

        The others are the source's columns that say nothing of the blood, for `Scan.columns`.
        """
        if self.local_columns and (source is None or source.is_dir()):
            raise UsageError(
                "only the columns of a CSV file have names of this site's own",
                where="columns.json",
                hint="delete the file; it has what was given with --column",
            )
        if source is None:
            return *bundled_table(), {}
        if self.need_source(source).is_dir():
            found = read_nhanes(source, names, MG_PER_MMOL)
            return *found, {CYCLE: found[0][CYCLE].tolist()}
        table, records, others = self._csv(source, names)
        return table, records, friedewald_notes(table), others

    def _csv(
        self, source: Path, names: tuple[str, ...]
    ) -> tuple[pd.DataFrame, list[str], dict[str, list[str]]]:
        raw = _read_csv(source)
        agreed = self._agreed_headers(names)
        headers = {name: self.local_columns.get(header, header) for name, header in agreed.items()}
        present = list(map(str, raw.columns))
        if TARGET not in names and headers.get("patient") not in present:
            # Cases may come without the names of their patients.
            headers.pop("patient", None)
        missing = [agreed[name] for name, header in headers.items() if header not in present]
        if typed := [self.local_columns[name] for name in missing if name in self.local_columns]:
            raise no_local_columns(typed, present, source)
        if missing:
            raise no_columns(missing, present, source)
        table = pd.DataFrame({name: raw[header] for name, header in headers.items()})
        for name in names:
            table[name] = pd.to_numeric(table[name], errors="coerce")
            if self.settings.units == "mmol/L" and name in MG_PER_MMOL:
                table[name] *= MG_PER_MMOL[name]
        # The header is line 1 of the file.
        records = [f"line {row + 2}" for row in range(len(table))]
        others = {
            str(name): [_text(value) for value in raw[name]]
            for name in raw.columns.difference([*headers.values()], sort=False)
        }
        return table, records, others

    def _agreed_headers(self, names: tuple[str, ...]) -> dict[str, str]:
        """Our name -> the study's header, for every column that is read."""
        headers = {name: self.settings.headers.get(name, name) for name in names}
        if self.settings.patient:
            headers["patient"] = self.settings.patient
        return headers

    def column_names(self) -> list[str]:
        return list(self._agreed_headers((*self.settings.columns, TARGET)).values())

    def column_name(self, name: str) -> str:
        agreed = self._agreed_headers((*self.settings.columns, TARGET))
        return name if name in agreed.values() else agreed.get(name, name)

    def _reasons(self, values: pd.DataFrame) -> list[str]:
        """For each row, all reasons to refuse it, or ''."""
        reasons: list[list[str]] = [[] for _ in range(len(values))]
        for name in values.columns:
            column = values[name].to_numpy(dtype=float)
            low, high = self.settings.plausible.get(name, (-np.inf, np.inf))
            unit = UNITS.get(name, "mg/dL")
            for row in np.flatnonzero(~np.isfinite(column)):
                reasons[row].append(f"{name} is missing or not a number")
            for row in np.flatnonzero((column < low) | (column > high)):
                reasons[row].append(
                    f"{name} {column[row]:g} is outside {low:g} to {high:g} ({unit})"
                )
        return ["; ".join(row_reasons) for row_reasons in reasons]


def _text(value: str | float) -> str:
    """A cell as text; '' for an empty one. 2016.0, of a column with empty cells, is '2016'."""
    if pd.isna(value):
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _read_csv(source: Path, rows: int | None = None) -> pd.DataFrame:
    try:
        return pd.read_csv(source, nrows=rows, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise BadDataError(f"the file is not a CSV table: {error}", where=source) from error


def friedewald_notes(table: pd.DataFrame) -> list[str]:
    """A note where the LDL of at least half the rows follows from the other lipids."""
    if not {*LIPIDS, TARGET} <= set(table.columns):
        return []
    computed = table["TC"] - table["HDL"] - table["TG"] / 5
    share = float(((table[TARGET] - computed).abs() <= 1).mean())
    if share < 0.5:
        return []
    return [
        f"the LDL of {share:.0%} of the rows is Friedewald's formula (LDL = TC - HDL - TG/5) to "
        "1 mg/dL, not measured: the network only has to find that formula"
    ]


def bundled_table() -> tuple[pd.DataFrame, list[str], list[str]]:
    """The 442 patients of Efron et al., "Least Angle Regression", 2004, bundled with scikit-learn.

    Lipids are in mg/dL; its s5 is the natural logarithm of the triglycerides.
    """
    from sklearn.datasets import load_diabetes

    frame = load_diabetes(scaled=False, as_frame=True).data
    table = pd.DataFrame(
        {
            "age": frame["age"],
            "sex": frame["sex"],
            "bmi": frame["bmi"],
            "bp": frame["bp"],
            "TC": frame["s1"],
            "HDL": frame["s3"],
            "TG": np.exp(frame["s5"]),
            TARGET: frame["s2"],
        }
    )
    note = (
        "the LDL of these 442 patients was computed with Friedewald's formula "
        "(LDL = TC - HDL - TG/5), not measured: the network only has to find that formula"
    )
    return table, [f"patient {row}" for row in range(len(table))], [note]
