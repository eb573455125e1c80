"""Tables without code: numeric and categorical columns to a number, or to one of some classes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from sltool.datasets.base import Dataset, Refused, Scan
from sltool.datasets.source_columns import (
    KNOWN_SPLITS,
    ClassCodes,
    Classes,
    People,
    SplitName,
    Texts,
    alike,
    check_typed,
    find_header,
    find_people,
    in_order,
    listed,
    need_two,
    patient_notes,
    plain_name,
    split_of,
)
from sltool.datasets.table_files import TextTable, read_table
from sltool.errors import BadDataError, StudyFileError, nearest
from sltool.registry import datasets
from sltool.study import Labels, Positive, Samples, Section

HELP = "a table with a header: .csv, .tsv or .txt (, ; or tab), .xlsx or .parquet"
# A label with more different whole numbers than this is a quantity, not a class.
MOST_CLASSES = 20
# A column of more different texts than this is free text or a name.
MOST_CATEGORIES = 50
# Headers that number rows.
NUMBERING = frozenset({"", "id", "index", "row", "rowid", "number", "no", "unnamed0", "column1"})
MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "?")
MALIGNANT = "diagnosis"


class Scaled(Section):
    """How numbers are standardised: (x - mean) / sd, or by a range of usual values."""

    range: tuple[float, float] | None = Field(
        default=None,
        description="Lowest and highest usual value, in the place of mean and sd: they become "
        "its middle and a quarter of its width.",
    )
    mean: float | None = Field(default=None, description="Agreed on.")
    sd: Positive | None = Field(default=None, description="Agreed on.")

    @model_validator(mode="after")
    def _either(self) -> Scaled:
        if (self.mean is None) != (self.sd is None):
            raise ValueError("mean and sd go together")
        if self.range and self.mean is not None:
            raise ValueError("either range, or mean and sd")
        if self.range and self.range[0] >= self.range[1]:
            raise ValueError("range has to be [lowest, highest]")
        return self

    @property
    def scale(self) -> tuple[float, float] | None:
        """Mean and standard deviation; None where nothing is agreed on."""
        if self.range is not None:
            low, high = self.range
            return (low + high) / 2, (high - low) / 4
        return None if self.mean is None or self.sd is None else (self.mean, self.sd)


class Column(Scaled):
    """A column that the network sees: categories, or else numbers."""

    categories: Texts = Field(default=(), description="The values; none for a column of numbers.")
    missing: Literal["refuse", "indicator"] = Field(
        default="refuse",
        description="refuse the row, or fill the value in and say so in a column of its own.",
    )
    fill: float | None = Field(default=None, description="For a missing number; null: the mean.")

    @model_validator(mode="after")
    def _one_kind(self) -> Column:
        if self.categories and (self.scale or self.fill is not None):
            raise ValueError("categories have no range, mean, sd or fill")
        if len(set(self.categories)) != len(self.categories):
            raise ValueError("a category stands twice")
        return self

    @model_serializer(mode="wrap")
    def _short(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what says nothing; a range that is to be typed is shown."""
        content: dict[str, Any] = handler(self)
        kept = {
            key: content[key] for key in content if content[key] not in (None, (), [], "refuse")
        }
        return kept if self.categories or self.scale else {"range": None, **kept}


class Label(Scaled):
    """What is predicted."""

    kind: Literal["regression", "binary", "multiclass"] = Field(
        default="binary", description="regression, binary or multiclass."
    )
    classes: Classes = Field(
        default={},
        description="Class -> its labels in the table; the last of two is the positive one. To "
        "join two, write {ill: [ill, Ill]}. Without meaning for regression.",
    )
    unit: str = Field(default="", description="Of a regression label.")


class TableHeaders(People):
    """The table's headers."""

    label: str = Field(default="label", description="Header of what is predicted.")


@datasets.register("table")
class Table(Dataset):
    """A table of your own (CSV, Excel, Parquet), or 569 bundled breast cancer patients."""

    class Settings(Section):
        headers: TableHeaders = Field(
            default=TableHeaders(), description="The table's headers beside the columns."
        )
        label: Label = Field(
            default=Label(classes={"0": ("0",), "1": ("1",)}), description="What is predicted."
        )
        columns: dict[str, Column] = Field(
            default={"x": Column()},
            min_length=1,
            description="Header -> what the network sees of it, in this order. Numbers: {range: "
            "[lowest, highest usual value]} or {mean: .., sd: ..}, agreed on. Categories: "
            "{categories: [a, b]}. A row without a value is refused; `missing: indicator` "
            "fills in `fill` (the mean, or no category) and adds a column that is 1 there, else 0.",
        )
        categories_as: Literal["one-hot", "codes"] = Field(
            default="one-hot", description="A column for each category, or one of whole numbers."
        )
        unseen: Literal["error", "other"] = Field(
            default="error",
            description="A category that is not listed: an error, or one more category 'other'.",
        )
        missing_as: Texts = Field(default=MISSING, description="What stands for a missing value.")
        splits: dict[str, SplitName] = Field(
            default=dict(KNOWN_SPLITS),
            description="The table's name of a split -> train, validation or test. "
            "`split.official` keeps to them.",
        )

        @model_validator(mode="after")
        def _classes_fit(self) -> Table.Settings:
            for header in (self.headers.label, self.headers.patient):
                if header in self.columns:
                    raise ValueError(f"'{header}' is no column that the network may see")
            return self

    recipe: ClassVar[Mapping[str, Any]] = {
        "split": {"official": True},
        "model": {"name": "mlp", "widths": [32, 64, 64]},
        "training": {"epochs": 100, "batch_size": 64, "learning_rate": 0.003},
    }
    needs_source = False
    source_help = HELP

    settings: Settings

    @classmethod
    def adapt(
        cls, source: Path | None, given: Mapping[str, Any]
    ) -> tuple[dict[str, Any], list[str]]:
        check_typed(cls.Settings, given)
        table = _read(source)
        found = _Inference(table, given)
        settings = found.settings()
        if source is None:
            # These patients' figures are public.
            settings, _ = _with_scales(settings, table)
        return settings, found.notes

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

    def scan(self, source: Path | None) -> Scan:
        self._check_scales()
        table = _read(source)
        reasons: dict[int, list[str]] = defaultdict(list)
        blocks = [
            plan.block(self._texts(table, plan.header), table, reasons) for plan in self._plans()
        ]
        labels = self._labels(table, reasons)
        people = self._people(table, reasons)
        good = [row for row in range(len(table.rows)) if row not in reasons]
        columns = {name: [texts[row] for row in good] for name, texts in people.items()}
        records = [table.rows[row] for row in good]
        patients = [
            name or record
            for name, record in zip(columns.get("patient", records), records, strict=True)
        ]
        inputs = np.concatenate(blocks, axis=1).astype(np.float32)[good]
        official, sites = columns.get("split"), columns.get("site")
        told = [Refused(table.rows[row], "; ".join(why)) for row, why in sorted(reasons.items())]
        return Scan(
            inputs=np.ascontiguousarray(inputs),
            labels=labels[good],
            records=records,
            groups=patients,
            examinations=columns.get("examination"),
            official=official,
            sites=sites,
            refused=[*table.refused, *told],
            notes=[
                *patient_notes(patients, official, sites),
                *_same_rows(inputs, labels[good], official),
            ],
            understood=self._understood(table),
        )

    def _plans(self) -> list[_Numbers | _Categories]:
        settings = self.settings
        return [
            _Categories(
                header, column, settings.categories_as == "codes", settings.unseen == "other"
            )
            if column.categories
            else _Numbers(header, column)
            for header, column in settings.columns.items()
        ]

    def _check_scales(self) -> None:
        """Raise `StudyFileError` where no standardisation was agreed on."""
        open_ones = [
            f"columns.{name}"
            for name, column in self.settings.columns.items()
            if not column.categories and column.scale is None
        ]
        if self.settings.label.kind == "regression" and self.settings.label.scale is None:
            open_ones.append("label")
        if open_ones:
            raise StudyFileError(
                f"no scale is agreed on for {len(open_ones)} of the dataset's columns: "
                f"{listed(open_ones)}",
                expected="in study.yaml, `range: [lowest, highest usual value]`, or mean and sd, "
                "for each: from the literature, never from a site's own patients",
                hint="type the ranges and run `sltool prepare` again; or give --standardise-from "
                "FILE, a public table with these columns; or --from-this-site, which gives away "
                "the means and standard deviations of your own",
            )

    def _texts(self, table: TextTable, header: str) -> list[str]:
        """A column, with '' for what stands for a missing value."""
        missing = frozenset(self.settings.missing_as)
        texts = table.column(header, f"dataset.columns.{header}")
        return ["" if text in missing else text for text in texts]

    def _labels(self, table: TextTable, reasons: dict[int, list[str]]) -> NDArray[Any]:
        """(N,) float32 numbers or int64 class numbers; 0 for a row that is refused."""
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

    def _people(self, table: TextTable, reasons: dict[int, list[str]]) -> dict[str, list[str]]:
        """Role -> N texts; the split by our name."""
        headers = self.settings.headers.model_dump(include=set(People.model_fields))
        people = {
            role: list(table.column(header, f"dataset.headers.{role}"))
            for role, header in headers.items()
            if header
        }
        for row, name in enumerate(people.get("split", [])):
            split = split_of(name, self.settings.splits)
            if split is None:
                near = nearest(name, self.settings.splits)
                reasons[row].append(f"its split '{name}' is none of dataset.splits{near}")
            people["split"][row] = split or ""
        return people

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


@dataclass(frozen=True)
class _Numbers:
    """A column of numbers: the value, and where missing values are taken, whether it is missing."""

    header: str
    column: Column

    @property
    def scales(self) -> list[tuple[float, float]]:
        """Mean and standard deviation of each prepared column."""
        indicator = [(0.0, 1.0)] if self.column.missing == "indicator" else []
        return [self.column.scale or (0.0, 1.0), *indicator]

    def block(
        self, texts: list[str], table: TextTable, reasons: dict[int, list[str]]
    ) -> NDArray[np.float64]:
        """(N, prepared columns); what cannot be used goes to `reasons`."""
        values = table.numbers(texts)
        missing = np.array([not text for text in texts])
        values[np.abs(values) > np.finfo(np.float32).max] = np.nan
        for row in rows_of(np.isnan(values) & ~missing):
            reasons[row].append(f"{self.header} '{texts[row]}' is not a number")
        _refuse_missing(self.header, self.column, missing, reasons)
        fill = self.column.fill if self.column.fill is not None else self.scales[0][0]
        filled = np.where(np.isnan(values), fill, values)
        return np.stack([filled, missing], axis=1)[:, : len(self.scales)]


@dataclass(frozen=True)
class _Categories:
    """A column of categories, as columns of 0 and 1 or as one of whole numbers.

    Behind the agreed categories stand 'other' and 'missing', where they are taken.
    """

    header: str
    column: Column
    as_codes: bool
    other: bool

    @property
    def _values(self) -> int:
        return len(self.column.categories) + self.other + (self.column.missing == "indicator")

    @property
    def scales(self) -> list[tuple[float, float]]:
        """Mean and standard deviation of each prepared column."""
        if self.as_codes:
            half = max((self._values - 1) / 2, 0.5)
            return [(half, half)]
        return [(0.0, 1.0)] * self._values

    def block(
        self, texts: list[str], table: TextTable, reasons: dict[int, list[str]]
    ) -> NDArray[np.float64]:
        """(N, prepared columns); raises `BadDataError` for a category that was not agreed on."""
        known = {name: code for code, name in enumerate(self.column.categories)}
        unseen = Counter(text for text in texts if text and text not in known)
        if unseen and not self.other:
            self._raise_unseen(unseen, table)
        missing = np.array([not text for text in texts])
        _refuse_missing(self.header, self.column, missing, reasons)
        codes = np.array([known.get(text, len(known)) for text in texts])
        codes[missing] = self._values - 1
        if self.as_codes:
            return codes[:, None].astype(np.float64)
        return np.asarray(np.eye(self._values)[codes])

    def _raise_unseen(self, unseen: Counter[str], table: TextTable) -> None:
        name, _ = unseen.most_common(1)[0]
        raise BadDataError(
            f"the column '{self.header}' has categories that are not agreed on: "
            f"{listed(f'{name!r} in {count} rows' for name, count in unseen.most_common())}"
            f"{nearest(name, self.column.categories)}",
            where=table.path or "",
            expected=f"one of {listed(self.column.categories)}",
            hint="correct the table; or agree with all sites on one more under dataset.columns."
            f"{self.header}.categories in study.yaml, or on `unseen: other`",
        )


def rows_of(mask: NDArray[np.bool_]) -> list[int]:
    """The numbers of the rows (N,) that are marked."""
    return [int(row) for row in np.flatnonzero(mask)]


def _refuse_missing(
    header: str, column: Column, missing: NDArray[np.bool_], reasons: dict[int, list[str]]
) -> None:
    if column.missing == "refuse":
        for row in rows_of(missing):
            reasons[row].append(f"{header} is missing")


class _Inference:
    """What the columns of a new study's table are."""

    def __init__(self, table: TextTable, given: Mapping[str, Any]) -> None:
        self._table = table
        self._given = given
        missing = frozenset(map(str, given.get("missing_as", MISSING)))
        self._columns = {
            name: ["" if text in missing else text for text in texts]
            for name, texts in table.columns.items()
        }
        self.notes: list[str] = []

    def settings(self) -> dict[str, Any]:
        """Settings with no standardisation."""
        headers = dict(self._given.get("headers") or {})
        label = headers.get("label") or find_header("label", self._columns)
        if label is None:
            raise BadDataError(
                "which column of the table is the label?",
                where=self._table.path or "",
                expected=f"one of {', '.join(self._columns)}",
                hint="give --set dataset.headers.label=HEADER",
            )
        self._table.column(label, "dataset.headers.label")
        rest = [name for name in self._columns if name != label]
        people = find_people(rest, headers)
        free = [name for name in rest if name not in people.values()]
        columns = dict(self._inputs(free))
        if not columns:
            raise BadDataError(
                "the table has no column that a network can learn from",
                where=self._table.path or "",
                expected="columns of numbers or of at most "
                f"{MOST_CATEGORIES} categories beside the label",
                hint="; ".join(self.notes),
            )
        if named := [name for name in columns if columns[name].get("categories")]:
            self.notes.append(
                f"study.yaml names the categories of {listed(named)}, for every site and the "
                "server to read: look at them before you hand it out"
            )
        return {
            "headers": {"label": label, **people},
            "label": self._label(label),
            "columns": columns,
        }

    def _label(self, header: str) -> dict[str, Any]:
        counts = Counter(filter(None, self._columns[header]))
        given = self._given.get("label") or {}
        kind = given.get("kind") or self._kind(counts)
        if kind == "regression":
            return {"kind": kind}
        need_two(
            list(counts),
            self._table.path,
            f"column '{header}'",
            "two classes or more, or numbers for regression",
            "give --set dataset.headers.label=HEADER, or a table with cases of another class",
        )
        if not given.get("classes"):
            self.notes += alike(counts)
        names = in_order(counts)
        if self._are_numbers(list(counts)):
            names.sort(key=float)
        return {
            "kind": "binary" if len(names) == 2 else "multiclass",
            "classes": {name: [name] for name in names},
        }

    def _kind(self, counts: Counter[str]) -> str:
        values = self._table.numbers(list(counts))
        whole = bool((values == np.round(values)).all())
        if (
            not np.isnan(values).any()
            and len(counts) > 2
            and not (whole and len(counts) <= MOST_CLASSES)
        ):
            return "regression"
        return "classes"

    def _are_numbers(self, texts: list[str]) -> bool:
        return not np.isnan(self._table.numbers(texts)).any()

    def _inputs(self, headers: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """The columns that a network can learn from; a note says which are left out, and why."""
        left_out: dict[str, str] = {}
        for header in headers:
            texts = self._columns[header]
            counts = Counter(filter(None, texts))
            missing = {"missing": "indicator"} if len(texts) > counts.total() else {}
            if len(counts) < 2:
                left_out[header] = "one value"
            elif plain_name(header) in NUMBERING and len(counts) == len(texts):
                left_out[header] = "a number for each row"
            elif self._are_numbers(list(counts)):
                yield header, {"range": None, **missing}
            elif len(counts) <= min(MOST_CATEGORIES, len(texts) // 2):
                yield header, {"categories": sorted(counts), **missing}
            else:
                left_out[header] = f"{len(counts)} different texts"
        if left_out:
            told = listed(f"'{name}' ({why})" for name, why in left_out.items())
            self.notes.append(f"columns that the network does not see: {told}")


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
        f"means and standard deviations are those of {len(table.rows)} rows"
        + (f" of {table.path.name}" if table.path else "")
    ]


def _without_scale(section: Scaled) -> dict[str, Any]:
    content = section.model_dump(mode="json")
    return {key: value for key, value in content.items() if key not in ("range", "mean", "sd")}


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _same_rows(
    inputs: NDArray[np.float32], labels: NDArray[Any], official: Sequence[str] | None
) -> list[str]:
    """A note for equal rows in different splits of the source."""
    if not official or not any(official):
        return []
    places: dict[bytes, set[str]] = defaultdict(set)
    for values, label, split in zip(inputs, labels, official, strict=True):
        places[values.tobytes() + label.tobytes()].add(split)
    twice = sum(len(found - {""}) > 1 for found in places.values())
    if not twice:
        return []
    rows = f"{twice} rows stand" if twice > 1 else "1 row stands"
    return [
        f"{rows} in two of the source's splits with the same values: the same patients? A patient "
        "column keeps them together"
    ]


def _read(source: Path | None) -> TextTable:
    if source is None:
        return bundled_table()
    if Table.need_source(source).is_dir():
        raise BadDataError("the source is a folder", where=source, expected=HELP)
    return read_table(source)


def bundled_table() -> TextTable:
    """569 patients of Street, Wolberg and Mangasarian, 1993, bundled with scikit-learn.

    30 measures of cell nuclei from fine-needle aspirates of breast masses; `diagnosis` is benign
    (357) or malignant (212).
    """
    from sklearn.datasets import load_breast_cancer

    bundled = load_breast_cancer()
    columns = {
        str(name): [repr(float(value)) for value in values]
        for name, values in zip(bundled.feature_names, bundled.data.T, strict=True)
    }
    columns[MALIGNANT] = [str(bundled.target_names[code]) for code in bundled.target]
    rows = [f"patient {number}" for number in range(len(bundled.target))]
    return TextTable(None, columns, rows, [])
