"""Any table: numeric and categorical columns as inputs, a quantity or a class as the label."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from sltool.datasets.base import TABLE_PROTECTION, TABLE_TRAINING, Dataset, Refused, Scan, protected
from sltool.datasets.source_columns import (
    KNOWN_SPLITS,
    ClassCodes,
    People,
    SplitName,
    Texts,
    check_typed,
    listed,
    other_columns,
    patient_notes,
    same_row_notes,
    split_of,
)
from sltool.datasets.table_columns import (
    CategoryColumn,
    Column,
    Label,
    NumberColumn,
    Scaled,
    TableHeaders,
    far_out_notes,
    rows_of,
)
from sltool.datasets.table_files import TextTable, bundled_table, read_table
from sltool.datasets.table_inference import MISSING, TableInference
from sltool.errors import BadDataError, StudyFileError, nearest
from sltool.registry import datasets
from sltool.study.schema import Labels, Samples, Section
from sltool.wording import plural

PEOPLE = frozenset(People.model_fields)
CASE_PEOPLE = frozenset({"patient", "examination"})
HELP = "a table with a header: .csv, .tsv or .txt (, ; or tab), .xlsx or .parquet"

BEST: Mapping[str, Any] = {
    "split": {"official": True},
    "model": {"name": "mlp", "widths": [64, 128, 128]},
    "encoding": {"dtype": "float32"},
    "training": {**TABLE_TRAINING, "weight_decay": 0.01},
}


@datasets.register("table")
class Table(Dataset):
    """A table of your own (CSV, Excel, Parquet), or 569 bundled breast cancer patients."""

    class Settings(Section):
        headers: TableHeaders = Field(
            default=TableHeaders(), description="The table's headers other than `columns`."
        )
        label: Label = Field(
            default=Label(classes={"0": ("0",), "1": ("1",)}), description="What is predicted."
        )
        columns: dict[str, Column] = Field(
            default={"x": Column()},
            min_length=1,
            description="Header -> how the network gets the column, in this order. Numbers: "
            "{range: [lowest, highest usual value]} or {mean: .., sd: ..}, agreed on. Categories: "
            "{categories: [a, b]}. A row without a value is refused; `missing: indicator` "
            "fills in `fill` (the mean, or no category) and adds a column that is 1 there, else 0.",
        )
        categories_as: Literal["one-hot", "codes"] = Field(
            default="one-hot",
            description="A column for each category, or a single column of whole numbers.",
        )
        unseen: Literal["error", "other"] = Field(
            default="error",
            description="A category that is not listed: an error, or the category 'other'.",
        )
        missing_as: Texts = Field(default=MISSING, description="Texts that mean a missing value.")
        splits: dict[str, SplitName] = Field(
            default=dict(KNOWN_SPLITS),
            description="The table's name of a split -> train, validation or test. "
            "`split.official` uses them.",
        )

        @model_validator(mode="after")
        def _classes_fit(self) -> Table.Settings:
            for header in (self.headers.label, self.headers.patient):
                if header in self.columns:
                    raise ValueError(f"'{header}' may not be a column that the network gets")
            return self

    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "best": BEST,
        "private": protected(BEST, TABLE_PROTECTION),
    }
    needs_source = False
    source_help = HELP

    settings: Settings

    @classmethod
    def infer_settings(
        cls, source: Path | None, given: Mapping[str, Any]
    ) -> tuple[dict[str, Any], list[str]]:
        check_typed(cls.Settings, given)
        table = _read(source)
        inference = TableInference(table, given)
        settings = inference.settings()
        if source is None:
            # The bundled patients' means and standard deviations are public.
            settings, _ = _with_scales(settings, table)
        return settings, inference.notes

    @classmethod
    def scaled(cls, settings: Mapping[str, Any], source: Path) -> tuple[dict[str, Any], list[str]]:
        return _with_scales(settings, _read(source))

    def samples(self) -> Samples:
        label = self.settings.label
        scales = [scale for plan in self._plans() for scale in plan.scales]
        mean, sd = label.scale or (0.0, 1.0)
        regression = label.kind == "regression"
        return Samples(
            shape=(len(scales),),
            mean=tuple(mean for mean, _ in scales),
            sd=tuple(sd for _, sd in scales),
            labels=Labels(
                kind=label.kind,
                classes=() if regression else tuple(label.classes),
                unit=label.unit if regression else "",
                mean=mean if regression else 0.0,
                sd=sd if regression else 1.0,
            ),
        )

    def column_names(self) -> list[str]:
        headers = self.settings.headers.model_dump().values()
        return list(dict.fromkeys([*self.settings.columns, *filter(None, headers)]))

    def scan(self, source: Path | None) -> Scan:
        return self._scan(source, labelled=True)

    def cases(self, source: Path | None) -> Scan:
        """As `scan`; the table needs neither the label's column nor those of split and site."""
        return self._scan(source, labelled=False)

    def _scan(self, source: Path | None, labelled: bool) -> Scan:
        self._check_scales()
        needed = self.column_names() if labelled else list(self.settings.columns)
        table = _read(source).renamed(self.local_columns, needed)
        table.need(needed)
        reasons: dict[int, list[str]] = defaultdict(list)
        blocks = [
            plan.block(self._texts(table, plan.header), table, reasons) for plan in self._plans()
        ]
        if labelled:
            labels = self._labels(table, reasons)
        else:
            regression = self.settings.label.kind == "regression"
            labels = np.zeros(len(table.rows), np.float32 if regression else np.int64)
        people = self._people(table, reasons, PEOPLE if labelled else CASE_PEOPLE)
        good = [row for row in range(len(table.rows)) if row not in reasons]
        columns = {name: [texts[row] for row in good] for name, texts in people.items()}
        records = [table.rows[row] for row in good]
        patients = [
            name or record
            for name, record in zip(columns.get("patient", records), records, strict=True)
        ]
        inputs = np.concatenate(blocks, axis=1).astype(np.float32)[good]
        official, sites = columns.get("split"), columns.get("site")
        refused = [Refused(table.rows[row], "; ".join(why)) for row, why in sorted(reasons.items())]
        return Scan(
            inputs=np.ascontiguousarray(inputs),
            labels=labels[good],
            records=records,
            groups=patients,
            examinations=columns.get("examination"),
            official=official,
            sites=sites,
            columns={
                name: [column[row] for row in good] for name, column in self._others(table).items()
            },
            refused=[*table.refused, *refused],
            notes=[
                *patient_notes(patients, official, sites),
                *same_row_notes(inputs, labels[good], official),
                *far_out_notes(table, good, self._scales(labelled)),
            ],
            understood=self._understood(table) if labelled else [],
        )

    def _plans(self) -> list[NumberColumn | CategoryColumn]:
        settings = self.settings
        return [
            CategoryColumn(
                header, column, settings.categories_as == "codes", settings.unseen == "other"
            )
            if column.categories
            else NumberColumn(header, column)
            for header, column in settings.columns.items()
        ]

    def _check_scales(self) -> None:
        """Raise `StudyFileError` where no standardisation was agreed on."""
        missing = [
            f"columns.{name}"
            for name, column in self.settings.columns.items()
            if not column.categories and column.scale is None
        ]
        if self.settings.label.kind == "regression" and self.settings.label.scale is None:
            missing.append("label")
        if missing:
            raise StudyFileError(
                f"no scale is agreed on for {len(missing)} of the dataset's columns: "
                f"{listed(missing)}",
                expected="in study.yaml, `range: [lowest, highest usual value]`, or mean and sd, "
                "for each: from the literature, never from a site's own patients",
                hint="type the ranges and run `sltool prepare` again; or give --standardise-from "
                "FILE, a public table with these columns; or --from-this-site, which discloses "
                "the means and standard deviations of your own table",
            )

    def _texts(self, table: TextTable, header: str) -> list[str]:
        """A column, with '' for a missing value."""
        missing = frozenset(self.settings.missing_as)
        texts = table.column(header, f"dataset.columns.{header}")
        return ["" if text in missing else text for text in texts]

    def _labels(self, table: TextTable, reasons: dict[int, list[str]]) -> NDArray[Any]:
        """(N,) float32 values or int64 class indices; 0 for a row that is refused."""
        label, header = self.settings.label, self.settings.headers.label
        table.column(header, "dataset.headers.label")
        texts = self._texts(table, header)
        if label.kind == "regression":
            values = table.numbers(texts)
            for row in rows_of(np.isnan(values)):
                reasons[row].append(f"its label '{texts[row]}' is not a number")
            return np.nan_to_num(values).astype(np.float32)
        codes = ClassCodes(label.classes, "dataset.label.classes")
        for row, text in enumerate(texts):
            if text not in codes:
                reasons[row].append(codes.unknown(text))
        return np.array([codes.get(text, 0) for text in texts], dtype=np.int64)

    def _people(
        self, table: TextTable, reasons: dict[int, list[str]], roles: frozenset[str]
    ) -> dict[str, list[str]]:
        """Role -> N texts, with the study's name of the split."""
        headers = self.settings.headers.model_dump(include=set(roles))
        people = {
            role: list(table.column(header, f"dataset.headers.{role}"))
            for role, header in headers.items()
            # Cases may come without the names of their patients.
            if header and (roles == PEOPLE or header in table.columns)
        }
        for row, name in enumerate(people.get("split", [])):
            split = split_of(name, self.settings.splits)
            if split is None:
                near = nearest(name, self.settings.splits)
                reasons[row].append(f"its split '{name}' is none of dataset.splits{near}")
            people["split"][row] = split or ""
        return people

    def _others(self, table: TextTable) -> dict[str, Sequence[str]]:
        """The columns by which the samples can be divided: categories, and what is not used."""
        numbers = [name for name, column in self.settings.columns.items() if not column.categories]
        others = other_columns(table.columns, self.settings.headers.model_dump())
        return {name: column for name, column in others.items() if name not in numbers}

    def _scales(self, labelled: bool) -> dict[str, tuple[float, float] | None]:
        """Header -> mean and standard deviation, of the label too if there is one."""
        settings = self.settings
        scales = {name: column.scale for name, column in settings.columns.items()}
        if not labelled:
            return scales
        regression = settings.label.kind == "regression"
        return {**scales, settings.headers.label: settings.label.scale if regression else None}

    def _understood(self, table: TextTable) -> list[str]:
        settings = self.settings
        columns = settings.columns
        numbers = [name for name, column in columns.items() if not column.categories]
        categories = [name for name in columns if name not in numbers]
        filled = [name for name, column in columns.items() if column.missing == "indicator"]
        headers = settings.headers.model_dump()
        label, people = headers.pop("label"), [f"{r} from '{h}'" for r, h in headers.items() if h]
        unused = [
            name for name in table.columns if name not in (*columns, label, *headers.values())
        ]
        kinds = {
            f"label '{label}': {settings.label.kind}": ", ".join(settings.label.classes),
            f"columns of numbers ({len(numbers)})": listed(numbers),
            f"columns of categories ({len(categories)})": listed(
                f"{name} ({', '.join(columns[name].categories[:5])}"
                f"{', ...' if len(columns[name].categories) > 5 else ''})"
                for name in categories
            ),
            "missing values are filled in": listed(filled),
            "not used": listed(unused),
            "people": ", ".join(people),
        }
        return [
            f"{what}: {names}" if names else what
            for what, names in kinds.items()
            if names or what.startswith("label")
        ]


def _with_scales(settings: Mapping[str, Any], table: TextTable) -> tuple[dict[str, Any], list[str]]:
    """The settings with the table's means and standard deviations, to 4 digits."""
    checked = Table.Settings.model_validate(settings)
    missing = frozenset(checked.missing_as)

    def figures(header: str) -> dict[str, float]:
        texts = table.column(header, f"dataset.columns.{header}")
        values = table.numbers([text for text in texts if text not in missing])
        values = values[~np.isnan(values)]
        if len(values) < 2 or values.std() == 0:
            raise BadDataError(
                f"the column '{header}' has no two different numbers to standardise by",
                where=table.path or "",
                expected="a table with the study's columns of numbers",
            )
        return {"mean": _rounded(values.mean()), "sd": _rounded(values.std())}

    columns = {
        name: {**_without_scale(column), **({} if column.categories else figures(name))}
        for name, column in checked.columns.items()
    }
    label = _without_scale(checked.label)
    if checked.label.kind == "regression":
        label.update(figures(checked.headers.label))
    return {**checked.model_dump(mode="json"), "columns": columns, "label": label}, [
        f"means and standard deviations are those of {plural(len(table.rows), 'row')}"
        + (f" of {table.path.name}" if table.path else "")
    ]


def _without_scale(section: Scaled) -> dict[str, Any]:
    content = section.model_dump(mode="json")
    return {key: value for key, value in content.items() if key not in ("range", "mean", "sd")}


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _read(source: Path | None) -> TextTable:
    if source is None:
        return bundled_table()
    if Table.need_source(source).is_dir():
        raise BadDataError("the source is a folder", where=source, expected=HELP)
    return read_table(source)
