"""Tables of any kind, CSV, Excel or Parquet, as columns of text."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sltool.datasets.base import Refused
from sltool.datasets.source_columns import listed
from sltool.errors import BadDataError, StorageError, UsageError, nearest
from sltool.shell import command_line

TEXT = frozenset({".csv", ".tsv", ".txt"})
EXCEL = frozenset({".xlsx", ".xlsm"})
PARQUET = frozenset({".parquet", ".pq"})
SUFFIXES = TEXT | EXCEL | PARQUET
SET_HEADER = "--set dataset.headers."
KINDS = "a table: .csv, .tsv or .txt, .xlsx, .parquet"


@dataclass(frozen=True)
class TextTable:
    """A table of N rows; an empty cell is ''.

    Attributes:
        path: the file; None for a bundled table.
        columns: header -> N texts without surrounding space; columns are in the file's order.
        rows: N names: 'line 2', 'row 2'; the header is line or row 1.
        refused: rows with a wrong number of fields.
        decimal: the decimal separator, '.' or ','.
    """

    path: Path | None
    columns: dict[str, list[str]]
    rows: list[str]
    refused: list[Refused]
    decimal: str = "."

    def column(self, header: str, key: str) -> list[str]:
        """The texts of a column.

        Args:
            key: the key in study.yaml that names the header.

        Raises:
            BadDataError: there is none; the message names the nearest header and all headers.
        """
        if header not in self.columns:
            raise BadDataError(
                f"the table has no column '{header}'{nearest(header, self.columns)}",
                where=self.path or "",
                expected=f"one of {', '.join(map(repr, self.columns))}",
                hint=f"correct {key} in study.yaml, or give --set {key}=HEADER for a new study",
            )
        return self.columns[header]

    def need(self, names: Sequence[str]) -> None:
        """Raise `BadDataError` unless there is a column of each of these names."""
        if missing := [name for name in names if name not in self.columns]:
            raise no_columns(missing, self.columns, self.path)

    def renamed(self, local: Mapping[str, str], needed: Collection[str] | None = None) -> TextTable:
        """The table with the study's names of its columns.

        Args:
            local: the study's name -> the header in this table.
            needed: the study's names that the table may not lack; None: all of `local`.

        Raises:
            BadDataError: the table has no such header.
        """
        if needed is not None:
            local = {
                name: header
                for name, header in local.items()
                if name in needed or header in self.columns
            }
        if missing := [header for header in local.values() if header not in self.columns]:
            raise no_local_columns(missing, self.columns, self.path)
        given = {name: self.columns[header] for name, header in local.items()}
        rest = {
            header: column
            for header, column in self.columns.items()
            if header not in (*local, *local.values())
        }
        return replace(self, columns={**rest, **given})

    def numbers(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """(n,) numbers; NaN for a text that is not a finite number."""
        series = pd.Series(texts, dtype=object)
        if self.decimal == ",":
            series = series.str.replace(",", ".", regex=False)
        values = pd.to_numeric(series, errors="coerce").to_numpy(dtype=np.float64)
        return np.where(np.isfinite(values), values, np.nan)


def no_columns(missing: Sequence[str], present: Iterable[str], path: Path | None) -> BadDataError:
    """The error for a table that lacks columns of the study; says how to map them."""
    headers = list(present)
    near = {name: get_close_matches(name, headers, n=1) for name in missing}
    options = command_line(f"{name}={(near[name] or ['HEADER'])[0]}" for name in missing)
    also = nearest(missing[0], headers) if len(missing) == 1 else ""
    return BadDataError(
        f"the table has no column {', '.join(map(repr, missing))}{also}",
        where=path or "",
        expected=f"the study's columns; the table has {listed(map(repr, headers))}",
        hint=f"where this table has another name for it, say so with `--column {options}`: that "
        "stays at this site (in a new study, `dataset.headers`, for all sites). A column that this "
        "site does not have must leave the study, at all sites: `dataset` in study.yaml",
    )


def no_local_columns(
    missing: Sequence[str], present: Iterable[str], path: Path | None
) -> BadDataError:
    """The error for headers that the site named and that its table does not have."""
    headers = list(present)
    return BadDataError(
        f"the table has no column '{missing[0]}'{nearest(missing[0], headers)}",
        where=path or "",
        expected=f"one of {listed(map(repr, headers))}",
        hint="correct the name with --column NAME=HEADER; columns.json has those given before",
    )


def which_header(table: TextTable, role: str, expected: str) -> BadDataError:
    """The error for a table without a usual header of `role`."""
    return BadDataError(
        f"which column of the table is the {role}?",
        where=table.path or "",
        expected=f"{expected}; the table has: {listed(table.columns)}",
        hint=f"give {SET_HEADER}{role}=HEADER",
    )


def read_table(path: Path) -> TextTable:
    """Read a table; the file's suffix says its format.

    Raises:
        BadDataError: the file is not a table of that format, has no rows, or repeats a header.
        UsageError: the package that reads the format is not installed.
    """
    suffix = path.suffix.lower()
    if suffix in TEXT:
        table = _text_table(path)
    elif suffix in EXCEL:
        table = _excel_table(path)
    elif suffix in PARQUET:
        table = _parquet_table(path)
    else:
        raise BadDataError(
            f"tables of the format '{suffix}' cannot be read", where=path, expected=KINDS
        )
    if not table.rows:
        raise BadDataError("the table has no rows", where=path, expected="a header and rows")
    return table


def _text_table(path: Path) -> TextTable:
    lines = _decoded(path).splitlines(keepends=True)
    separator = max(",;\t", key=(lines[0] if lines else "").count)
    reader = csv.reader(lines, delimiter=separator, strict=True)
    try:
        head = next(reader, [])
        rows = [(f"line {reader.line_num}", row) for row in reader if any(map(str.strip, row))]
    except csv.Error as error:
        raise BadDataError(
            f"the file is not a CSV table: {error}",
            where=f"{path}, line {reader.line_num}",
            expected="a header and rows; is the file complete?",
        ) from error
    return _table(path, head, rows, "," if separator == ";" else ".")


def _decoded(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise StorageError.of(error, path, "read") from error
    if b"\0" in raw:
        raise BadDataError("the file is not text", where=path, expected=KINDS)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        # The encoding of spreadsheets in Western Europe; it decodes any byte.
        return raw.decode("latin-1")


def _excel_table(path: Path) -> TextTable:
    try:
        from openpyxl import load_workbook
    except ImportError as error:
        raise _missing_extra("Excel files need openpyxl", "excel") from error
    try:
        book = load_workbook(path, read_only=True, data_only=True)
        sheet = list(book.worksheets[0].iter_rows(values_only=True))
        book.close()
    except (OSError, ValueError, KeyError, TypeError, IndexError, zipfile.BadZipFile) as error:
        raise BadDataError(f"the file is not an Excel table: {error}", where=path) from error
    texts = [[_cell(value) for value in row] for row in sheet]
    rows = [(f"row {index}", row) for index, row in enumerate(texts, 1) if any(row)]
    head = rows[0][1] if rows else []
    return _table(path, head, rows[1:], ".")


def _parquet_table(path: Path) -> TextTable:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise _missing_extra("Parquet files need pyarrow", "parquet") from error
    try:
        found = parquet.ParquetFile(path).read()
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise BadDataError(f"the file is not a Parquet table: {error}", where=path) from error
    cells = [[_cell(value) for value in column.to_pylist()] for column in found.columns]
    rows = [(f"row {index + 2}", list(row)) for index, row in enumerate(zip(*cells, strict=True))]
    return _table(path, list(found.column_names), rows, ".")


def _missing_extra(what: str, extra: str) -> UsageError:
    return UsageError(what, hint=f'pip install "sltool[{extra}]"')


def _cell(value: Any) -> str:
    if value is None:
        return ""
    # A spreadsheet may store whole numbers as floats; 2 and 2.0 are the same category.
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _table(
    path: Path, head: list[str], rows: list[tuple[str, list[str]]], decimal: str
) -> TextTable:
    headers = [name.strip() or f"column {index}" for index, name in enumerate(head, 1)]
    twice = next((name for name in headers if headers.count(name) > 1), None)
    if not any(map(str.strip, head)) or twice:
        raise BadDataError(
            f"the header '{twice}' occurs twice" if twice else "the table has no header",
            where=path,
            expected="a first row with a name for each column",
        )
    complete = [(name, row) for name, row in rows if len(row) == len(headers)]
    cells = (
        zip(*(row for _, row in complete), strict=True) if complete else iter([()] * len(headers))
    )
    return TextTable(
        path=path,
        columns={
            name: list(map(str.strip, column)) for name, column in zip(headers, cells, strict=True)
        },
        rows=[name for name, _ in complete],
        refused=list(_incomplete(rows, len(headers))),
        decimal=decimal,
    )


def _incomplete(rows: list[tuple[str, list[str]]], expected: int) -> Iterator[Refused]:
    for name, row in rows:
        if len(row) != expected:
            yield Refused(name, f"it has {len(row)} fields where the header has {expected}")


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
    columns["diagnosis"] = [str(bundled.target_names[code]) for code in bundled.target]
    rows = [f"patient {row}" for row in range(len(bundled.target))]
    return TextTable(None, columns, rows, [])
