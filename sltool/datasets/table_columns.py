"""The columns of a table: their settings in study.yaml, and their conversion to inputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from sltool.datasets.source_columns import (
    Classes,
    People,
    Texts,
    listed,
)
from sltool.datasets.table_files import TextTable
from sltool.errors import BadDataError, nearest
from sltool.study.schema import Positive, Section
from sltool.wording import plural

# Standard deviations from the agreed mean.
FAR = 20


class Scaled(Section):
    """How numbers are standardised: (x - mean) / sd, or by a range of usual values."""

    range: tuple[float, float] | None = Field(
        default=None,
        description="Lowest and highest usual value, instead of mean and sd, which become the "
        "middle of the range and a quarter of its width.",
    )
    mean: float | None = Field(default=None, description="Agreed on.")
    sd: Positive | None = Field(default=None, description="Agreed on.")

    @model_validator(mode="after")
    def _either(self) -> Scaled:
        if (self.mean is None) != (self.sd is None):
            raise ValueError("mean and sd must be given together")
        if self.range and self.mean is not None:
            raise ValueError("give either range, or mean and sd")
        if self.range and self.range[0] >= self.range[1]:
            raise ValueError("range has to be [lowest, highest]")
        return self

    @property
    def scale(self) -> tuple[float, float] | None:
        """Mean and standard deviation; None if no scale is agreed on."""
        if self.range is not None:
            low, high = self.range
            return (low + high) / 2, (high - low) / 4
        return None if self.mean is None or self.sd is None else (self.mean, self.sd)


class Column(Scaled):
    """A column that the network gets: of categories, or of numbers."""

    categories: Texts = Field(default=(), description="The values; none for a column of numbers.")
    missing: Literal["refuse", "indicator"] = Field(
        default="refuse",
        description="refuse the row, or fill the value in and mark it in a column of its own.",
    )
    fill: float | None = Field(default=None, description="For a missing number; null: the mean.")

    @model_validator(mode="after")
    def _check_kind(self) -> Column:
        if self.categories and (self.scale or self.fill is not None):
            raise ValueError("categories have no range, mean, sd or fill")
        if len(set(self.categories)) != len(self.categories):
            raise ValueError("a category is listed twice")
        return self

    @model_serializer(mode="wrap")
    def _short(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without default values; a range that the user still has to type is shown."""
        content: dict[str, Any] = handler(self)
        short = {
            key: content[key] for key in content if content[key] not in (None, (), [], "refuse")
        }
        return short if self.categories or self.scale else {"range": None, **short}


class Label(Scaled):
    """What is predicted."""

    kind: Literal["regression", "binary", "multiclass"] = Field(
        default="binary", description="regression, binary or multiclass."
    )
    classes: Classes = Field(
        default={},
        description="Class -> its labels in the table; the last of two is the positive one. To "
        "merge two, write {ill: [ill, Ill]}. Not used for regression.",
    )
    unit: str = Field(default="", description="The unit of a regression label.")


class TableHeaders(People):
    """The table's headers."""

    label: str = Field(default="label", description="Header of what is predicted.")


@dataclass(frozen=True)
class NumberColumn:
    """A column of numbers: the value, and with `missing: indicator` whether it is missing."""

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
        """(N, prepared columns); adds the reason for each row that cannot be used to `reasons`."""
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
class CategoryColumn:
    """A column of categories, as columns of 0 and 1 or as a single column of whole numbers.

    'other' and 'missing' follow the agreed categories, if the settings allow them.
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
        rows = [f"{name!r} in {plural(count, 'row')}" for name, count in unseen.most_common()]
        raise BadDataError(
            f"the column '{self.header}' has categories that are not agreed on: "
            f"{listed(rows)}"
            f"{nearest(name, self.column.categories)}",
            where=table.path or "",
            expected=f"one of {listed(self.column.categories)}",
            hint="correct the table; or agree with all sites on a new category under "
            f"dataset.columns.{self.header}.categories in study.yaml, or on `unseen: other`",
        )


def rows_of(mask: NDArray[np.bool_]) -> list[int]:
    """The indices of the rows (N,) that are marked."""
    return [int(row) for row in np.flatnonzero(mask)]


def _refuse_missing(
    header: str, column: Column, missing: NDArray[np.bool_], reasons: dict[int, list[str]]
) -> None:
    if column.missing == "refuse":
        for row in rows_of(missing):
            reasons[row].append(f"{header} is missing")


def far_out_notes(
    table: TextTable, rows: list[int], scales: Mapping[str, tuple[float, float] | None]
) -> list[str]:
    """A note about values far from the agreed mean, which suggest a unit or typing mistake.

    Args:
        rows: the indices of the rows that are used.
        scales: header -> mean and standard deviation; None for a column without a scale.
    """
    columns = []
    for name, scale in scales.items():
        if scale is None:
            continue
        values = table.numbers(table.columns[name])[rows]
        far = np.abs(values - scale[0]) / scale[1]
        if count := int((far > FAR).sum()):
            columns.append(f"{name} in {count} (the furthest: {values[np.nanargmax(far)]:g})")
    if not columns:
        return []
    return [
        f"rows with a value more than {FAR} standard deviations from the mean: {listed(columns)}. "
        "A unit or a typing mistake?"
    ]
