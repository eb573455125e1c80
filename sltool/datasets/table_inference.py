"""Settings of a new study, inferred from the columns of its table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from sltool.datasets.source_columns import (
    alike,
    find_header,
    find_people,
    in_order,
    listed,
    need_two,
    plain_name,
    positive_note,
)
from sltool.datasets.table_files import TextTable, which_header
from sltool.errors import BadDataError

# A label with more distinct whole numbers than this is a quantity, not a class.
MOST_CLASSES = 20
# A column with more distinct texts than this is free text or a name.
MOST_CATEGORIES = 50
# Headers that number rows.
NUMBERING = frozenset({"", "id", "index", "row", "rowid", "number", "no", "unnamed0", "column1"})
MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "?")


class TableInference:
    """Infers the settings of a new study from its table; `notes` are for the user."""

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
        """The settings, without standardisation."""
        headers = dict(self._given.get("headers") or {})
        label = headers.get("label") or find_header("label", self._columns)
        if label is None:
            raise which_header(self._table, "label", "what is predicted")
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
                "server to read: check them before you pass it on"
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
            "give --set dataset.headers.label=HEADER, or a table with samples of another class",
        )
        if not given.get("classes"):
            self.notes += alike(counts)
        names = in_order(counts)
        if self._are_numbers(list(counts)):
            names.sort(key=float)
        if not given.get("classes"):
            self.notes += positive_note(names, "dataset.label.classes")
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
        """The columns that a network can learn from; a note names those left out, and why."""
        left_out: dict[str, str] = {}
        for header in headers:
            texts = self._columns[header]
            counts = Counter(filter(None, texts))
            missing = {"missing": "indicator"} if len(texts) > counts.total() else {}
            if len(counts) < 2:
                left_out[header] = "a single value"
            elif plain_name(header) in NUMBERING and len(counts) == len(texts):
                left_out[header] = "a row index"
            elif self._are_numbers(list(counts)):
                yield header, {"range": None, **missing}
            elif len(counts) <= min(MOST_CATEGORIES, len(texts) // 2):
                yield header, {"categories": sorted(counts), **missing}
            else:
                left_out[header] = f"{len(counts)} distinct texts"
        if left_out:
            names = listed(f"'{name}' ({why})" for name, why in left_out.items())
            self.notes.append(f"columns that the network does not get: {names}")
