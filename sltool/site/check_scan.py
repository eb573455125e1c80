"""Validate what a dataset returns; the stages after `prepare` rely on it.

A dataset may be a third-party plug-in. numpy and HDF5 would silently accept many mistakes (20.5 is
stored as 20, a missing patient becomes another patient) or fail far from their cause.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from sltool.datasets.base import Refused, Scan
from sltool.datasets.images import ImageFiles
from sltool.errors import BadDataError
from sltool.study.schema import SPLITS, Labels, Samples

HINT = "correct the dataset's scan(); docs/how-to/write-a-plugin.md describes each field"
# The name of the column of `Scan.sites`.
SITE = "site"
REAL = "iuf"  # numpy's codes for signed, unsigned and floating-point dtypes


@dataclass(frozen=True)
class Field:
    """A field of what the dataset `dataset` returned, for error messages."""

    dataset: str
    field: str

    def wrong(self, what: str, expected: str, row: int | None = None) -> NoReturn:
        """Raise `BadDataError`.

        Args:
            what: the value or property that is wrong.
            row: the first bad row, from 0; None if the field as a whole is wrong.
        """
        raise BadDataError(
            f"the dataset '{self.dataset}' gives wrong {self.field}: {what}",
            where="" if row is None else f"row {row} of {self.field}, counted from 0",
            expected=expected,
            hint=HINT,
        )


def check_scan(scan: Scan, dataset: str, samples: Samples) -> Scan:
    """Check a scan, except inputs that are read later; returns it with labels float32 or int64.

    Args:
        dataset: the dataset's name.
        samples: the study's description of a sample.

    Raises:
        BadDataError: a field is not as `Scan` requires; names the field and the first bad row.
    """
    if not isinstance(scan, Scan):
        Field(dataset, "scan()").wrong(f"a {type(scan).__name__}", "a Scan")
    labels = _labels(scan.labels, samples.labels, Field(dataset, "labels"))
    count = len(labels)
    columns = {name: _as_list(getattr(scan, name)) for name in COLUMNS}
    scan = replace(scan, labels=labels, **columns)
    _check_length(scan.inputs, count, Field(dataset, "inputs"))
    for name, correction in COLUMNS.items():
        column = getattr(scan, name)
        if column is not None or name in REQUIRED:
            _check_column(column, count, correction, Field(dataset, name))
    _check_unique(scan.records, Field(dataset, "records"))
    scan = replace(scan, columns=_named_columns(scan, count, dataset))
    for name, correction in LISTS.items():
        _check_column(getattr(scan, name), None, correction, Field(dataset, name))
    return scan


class InputCheck:
    """Checks inputs as they are read: all of the same shape and dtype, and finite.

    Args:
        shape: of a sample.
    """

    def __init__(self, dataset: str, shape: tuple[int, ...]) -> None:
        self._field = Field(dataset, "inputs")
        self._shape = shape
        self._dtype: np.dtype[Any] | None = None

    def stacked(self, arrays: Sequence[Any], rows: Sequence[int]) -> NDArray[Any]:
        """Stack the arrays of these rows to (n, *shape), after checking each; thread-safe."""
        for array, row in zip(arrays, rows, strict=True):
            if not isinstance(array, np.ndarray):
                self._field.wrong(f"{array!r:.60}", f"an array of shape {self._shape}", row)
            if array.shape != self._shape:
                self._field.wrong(f"the shape {array.shape}", f"{self._shape}", row)
            self._check_dtype(array.dtype, arrays[0].dtype, row)
        return np.stack(arrays) if arrays else np.empty((0, *self._shape), np.float32)

    def check(self, arrays: NDArray[Any], rows: Sequence[int]) -> None:
        """Check a batch (n, *shape) of these rows; call it in order and from a single thread.

        Raises:
            BadDataError: as `check_scan`.
        """
        if not len(rows):
            return
        if arrays.shape[1:] != self._shape:
            self._field.wrong(f"samples of shape {arrays.shape[1:]}", f"shape {self._shape}")
        self._dtype = self._dtype or arrays.dtype
        self._check_dtype(arrays.dtype, self._dtype, rows[0])
        if arrays.dtype.kind == "f" and not np.isfinite(arrays).all():
            index = tuple(np.argwhere(~np.isfinite(arrays))[0])
            self._field.wrong(f"a value that is {arrays[index]}", "finite numbers", rows[index[0]])

    def _check_dtype(self, dtype: np.dtype[Any], first: np.dtype[Any], row: int) -> None:
        if dtype.kind not in REAL:
            self._field.wrong(f"dtype {dtype}", "real numbers, such as uint8 or float32", row)
        if dtype != first:
            self._field.wrong(f"dtype {dtype}", f"{first}, as in the samples before it", row)


def _as_list(column: Any) -> Any:
    """A numpy or pandas column as a list; any other value unchanged."""
    return column.tolist() if hasattr(column, "tolist") else column


def _labels(values: Any, labels: Labels, field: Field) -> NDArray[Any]:
    if not isinstance(values, np.ndarray) or values.ndim != 1:
        got = f"shape {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
        field.wrong(got, "an array of shape (N,)")
    if labels.kind == "regression":
        return _regression_targets(values, field)
    return _class_indices(values, labels.classes, field)


def _regression_targets(values: NDArray[Any], field: Field) -> NDArray[np.float32]:
    if len(values) and values.dtype.kind not in REAL:
        field.wrong(f"dtype {values.dtype}", "float32 for regression")
    with np.errstate(over="ignore"):
        targets = values.astype(np.float32)
    if (bad := ~np.isfinite(targets)).any():
        row = int(bad.argmax())
        field.wrong(f"{values[row]}", "finite numbers in the range of float32", row)
    return targets


def _class_indices(values: NDArray[Any], classes: Sequence[str], field: Field) -> NDArray[np.int64]:
    if len(values) and values.dtype.kind not in "iu":
        field.wrong(f"dtype {values.dtype}", "int64 class indices")
    if (bad := (values < 0) | (values >= len(classes))).any():
        row = int(bad.argmax())
        known = ", ".join(f"{index} ({name})" for index, name in enumerate(classes[:10]))
        field.wrong(f"there is no class {values[row]}", f"0 to {len(classes) - 1}: {known}", row)
    return values.astype(np.int64)


def _check_length(inputs: Any, count: int, field: Field) -> None:
    """Check the number of inputs; that of a loader function is taken from the labels."""
    if isinstance(inputs, ImageFiles):
        if len(inputs.paths) != count:
            field.wrong(f"{len(inputs.paths)} files for {count} labels", "one per label")
        _check_unique(inputs.paths, field)
    elif isinstance(inputs, np.ndarray):
        if len(inputs) != count:
            field.wrong(f"shape {inputs.shape} for {count} labels", "one per label")
    elif not callable(inputs):
        field.wrong(f"a {type(inputs).__name__}", "an array, ImageFiles or a function")


def _check_column(
    column: Any, count: int | None, correction: Callable[[Any], str], field: Field
) -> None:
    """Check a list or tuple and each of its values.

    Args:
        count: the required length; None: any length.
        correction: value -> what is expected instead, or '' if the value is valid.
    """
    if not isinstance(column, Sequence) or isinstance(column, str):
        field.wrong(f"a {type(column).__name__}", "a list")
    if count is not None and len(column) != count:
        field.wrong(f"{len(column)} for {count} labels", "one per label")
    for row, value in enumerate(column):
        if expected := correction(value):
            field.wrong(f"{value!r:.80}", expected, row)


def _named_columns(scan: Scan, count: int, dataset: str) -> dict[str, list[str]]:
    """The columns as lists, with that of the sites."""
    field = Field(dataset, "columns")
    if not isinstance(scan.columns, Mapping):
        field.wrong(f"a {type(scan.columns).__name__}", "a dict: name -> list of N texts")
    columns = {name: _as_list(column) for name, column in scan.columns.items()}
    for name, column in columns.items():
        if expected := _name_correction(name):
            field.wrong(f"the name {name!r:.80}", expected)
        _check_column(column, count, _text_correction, Field(dataset, f"columns['{name}']"))
    if scan.sites and SITE in columns:
        field.wrong(f"the name '{SITE}' is that of the field sites", "either of the two")
    return {**({SITE: list(scan.sites)} if scan.sites else {}), **columns}


def _check_unique(column: Sequence[Any], field: Field) -> None:
    if len(set(column)) == len(column):
        return
    first_rows: dict[Any, int] = {}
    for row, value in enumerate(column):
        if (first_row := first_rows.setdefault(value, row)) != row:
            field.wrong(f"{str(value)!r} is also in row {first_row}", "unique values", row)


def _text_correction(value: Any) -> str:
    """What is expected instead of `value` if it cannot be stored as text, else ''."""
    if not isinstance(value, str):
        return "text (str)"
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return "text that can be encoded in UTF-8; rename the file"
    return "text without zero bytes" if "\0" in value else ""


def _name_correction(value: Any) -> str:
    return "a name, not ''" if value == "" else _text_correction(value)


def _split_correction(value: Any) -> str:
    return "" if value in ("", *SPLITS) else f"one of {', '.join(SPLITS)}, or ''"


def _pair_correction(value: Any) -> str:
    valid = isinstance(value, tuple) and len(value) == 2 and not any(map(_text_correction, value))
    return "" if valid else "a pair of texts: the source's list, the part of the body"


def _refused_correction(value: Any) -> str:
    if not isinstance(value, Refused):
        return "a Refused"
    return _text_correction(value.record) or _text_correction(value.reason)


REQUIRED = ("records", "groups")
COLUMNS: dict[str, Callable[[Any], str]] = {
    "records": _name_correction,
    "groups": _name_correction,
    "examinations": _text_correction,
    "official": _split_correction,
    "parts": _pair_correction,
    "sites": _text_correction,
}
LISTS: dict[str, Callable[[Any], str]] = {
    "refused": _refused_correction,
    "notes": _text_correction,
    "understood": _text_correction,
}
