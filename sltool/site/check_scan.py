"""What a dataset returns is checked here, once: nothing behind `prepare` looks at it again.

A dataset may be anybody's plug-in. numpy and HDF5 would make something of most mistakes (20.5
stored as 20, a missing patient as one more patient) or fail far from their cause.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from sltool.datasets.base import Refused, Scan
from sltool.datasets.images import ImageFiles
from sltool.errors import BadDataError
from sltool.study.schema import SPLITS, Labels, Samples

HINT = "correct the dataset's scan(); docs/how-to/write-a-plugin.md says what each field holds"
REAL = "iuf"  # numpy's kinds of signed, unsigned and floating numbers


@dataclass(frozen=True)
class Field:
    """One field of what the dataset `name` returned, for errors."""

    dataset: str
    field: str

    def wrong(self, what: str, expected: str, row: int | None = None) -> NoReturn:
        """Raise `BadDataError`.

        Args:
            row: the first bad one, from 0; None where it is the field as a whole.
        """
        raise BadDataError(
            f"the dataset '{self.dataset}' gives wrong {self.field}: {what}",
            where="" if row is None else f"row {row} of {self.field}, counted from 0",
            expected=expected,
            hint=HINT,
        )


def check_scan(scan: Scan, dataset: str, samples: Samples) -> Scan:
    """The scan with its labels as float32 or int64; all is checked but what inputs are read later.

    Args:
        dataset: its name.
        samples: what one sample is.

    Raises:
        BadDataError: a field is not as `Scan` says; names the field and the first bad row.
    """
    if not isinstance(scan, Scan):
        Field(dataset, "scan()").wrong(f"a {type(scan).__name__}", "a Scan")
    labels = _labels(scan.labels, samples.labels, Field(dataset, "labels"))
    count = len(labels)
    columns = {name: _as_list(getattr(scan, name)) for name in COLUMNS}
    scan = replace(scan, labels=labels, **columns)
    _check_length(scan.inputs, count, Field(dataset, "inputs"))
    for name, fault in COLUMNS.items():
        column = getattr(scan, name)
        if column is not None or name in REQUIRED:
            _check_column(column, count, fault, Field(dataset, name))
    _check_unique(scan.records, Field(dataset, "records"))
    for name, fault in LISTS.items():
        _check_column(getattr(scan, name), None, fault, Field(dataset, name))
    return scan


class InputCheck:
    """Checks inputs as they are read: numbers of one shape and dtype, all of them finite.

    Args:
        shape: of one sample.
    """

    def __init__(self, dataset: str, shape: tuple[int, ...]) -> None:
        self._field = Field(dataset, "inputs")
        self._shape = shape
        self._dtype: np.dtype[Any] | None = None

    def stacked(self, arrays: Sequence[Any], rows: Sequence[int]) -> NDArray[Any]:
        """Arrays that a function gave for these rows, as one of (n, *shape); for any thread."""
        for array, row in zip(arrays, rows, strict=True):
            if not isinstance(array, np.ndarray):
                self._field.wrong(f"{array!r:.60}", f"an array of shape {self._shape}", row)
            if array.shape != self._shape:
                self._field.wrong(f"the shape {array.shape}", f"{self._shape}", row)
            self._check_dtype(array.dtype, arrays[0].dtype, row)
        return np.stack(arrays) if arrays else np.empty((0, *self._shape), np.float32)

    def check(self, arrays: NDArray[Any], rows: Sequence[int]) -> None:
        """Check a batch (n, *shape) of these rows; batches in their order, from one thread.

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
            at = tuple(np.argwhere(~np.isfinite(arrays))[0])
            self._field.wrong(f"a value that is {arrays[at]}", "finite numbers", rows[at[0]])

    def _check_dtype(self, dtype: np.dtype[Any], first: np.dtype[Any], row: int) -> None:
        if dtype.kind not in REAL:
            self._field.wrong(f"dtype {dtype}", "real numbers, such as uint8 or float32", row)
        if dtype != first:
            self._field.wrong(f"dtype {dtype}", f"{first}, as the samples before it", row)


def _as_list(column: Any) -> Any:
    """A column of numpy or pandas as a list; anything else as it is."""
    return column.tolist() if hasattr(column, "tolist") else column


def _labels(values: Any, labels: Labels, field: Field) -> NDArray[Any]:
    if not isinstance(values, np.ndarray) or values.ndim != 1:
        got = f"shape {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
        field.wrong(got, "an array of shape (N,)")
    if labels.kind == "regression":
        return _numbers(values, field)
    return _classes(values, labels.classes, field)


def _numbers(values: NDArray[Any], field: Field) -> NDArray[np.float32]:
    if len(values) and values.dtype.kind not in REAL:
        field.wrong(f"dtype {values.dtype}", "float32 for regression")
    with np.errstate(over="ignore"):
        numbers = values.astype(np.float32)
    if (bad := ~np.isfinite(numbers)).any():
        row = int(bad.argmax())
        field.wrong(f"{values[row]}", "finite numbers in the range of float32", row)
    return numbers


def _classes(values: NDArray[Any], classes: Sequence[str], field: Field) -> NDArray[np.int64]:
    if len(values) and values.dtype.kind not in "iu":
        field.wrong(f"dtype {values.dtype}", "int64 class numbers")
    if (bad := (values < 0) | (values >= len(classes))).any():
        row = int(bad.argmax())
        known = ", ".join(f"{n} ({name})" for n, name in enumerate(classes[:10]))
        field.wrong(f"there is no class {values[row]}", f"0 to {len(classes) - 1}: {known}", row)
    return values.astype(np.int64)


def _check_length(inputs: Any, count: int, field: Field) -> None:
    """As far as it can be told without reading: a function's samples are counted by the labels."""
    if isinstance(inputs, ImageFiles):
        if len(inputs.paths) != count:
            field.wrong(f"{len(inputs.paths)} files for {count} labels", "one for each label")
        _check_unique(inputs.paths, field)
    elif isinstance(inputs, np.ndarray):
        if len(inputs) != count:
            field.wrong(f"shape {inputs.shape} for {count} labels", "one for each label")
    elif not callable(inputs):
        field.wrong(f"a {type(inputs).__name__}", "an array, ImageFiles or a function")


def _check_column(
    column: Any, count: int | None, fault: Callable[[Any], str], field: Field
) -> None:
    """A list or tuple of `count` entries (None: of any) without a fault."""
    if not isinstance(column, Sequence) or isinstance(column, str):
        field.wrong(f"a {type(column).__name__}", "a list")
    if count is not None and len(column) != count:
        field.wrong(f"{len(column)} for {count} labels", "one for each label")
    for row, value in enumerate(column):
        if expected := fault(value):
            field.wrong(f"{value!r:.80}", expected, row)


def _check_unique(column: Sequence[Any], field: Field) -> None:
    if len(set(column)) == len(column):
        return
    first: dict[Any, int] = {}
    for row, value in enumerate(column):
        if (before := first.setdefault(value, row)) != row:
            field.wrong(f"{str(value)!r} stands in row {before} too", "each once", row)


def _no_text(value: Any) -> str:
    """What is expected instead of `value`, where it cannot be stored as text; or ''."""
    if not isinstance(value, str):
        return "text (str)"
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return "text that UTF-8 can hold; rename the file"
    return "text without zero bytes" if "\0" in value else ""


def _no_name(value: Any) -> str:
    return "a name, not ''" if value == "" else _no_text(value)


def _no_split(value: Any) -> str:
    return "" if value in ("", *SPLITS) else f"one of {', '.join(SPLITS)}, or ''"


def _no_pair(value: Any) -> str:
    right = isinstance(value, tuple) and len(value) == 2 and not any(map(_no_text, value))
    return "" if right else "a pair of texts: the source's list, the part of the body"


def _not_refused(value: Any) -> str:
    if not isinstance(value, Refused):
        return "a Refused"
    return _no_text(value.record) or _no_text(value.reason)


REQUIRED = ("records", "groups")
COLUMNS: dict[str, Callable[[Any], str]] = {
    "records": _no_name,
    "groups": _no_name,
    "examinations": _no_text,
    "official": _no_split,
    "parts": _no_pair,
    "sites": _no_text,
}
LISTS: dict[str, Callable[[Any], str]] = {
    "refused": _not_refused,
    "notes": _no_text,
    "understood": _no_text,
}
