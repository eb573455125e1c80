"""`columns.json`: what this site's table calls the columns of the study. It stays at the site."""

from __future__ import annotations

from collections.abc import Sequence

from sltool.datasets.base import Dataset
from sltool.errors import UsageError, nearest
from sltool.files import read_json, write_json
from sltool.study.layout import StudyFolder


def local_columns(
    folder: StudyFolder, dataset: Dataset, given: Sequence[str] = ()
) -> dict[str, str]:
    """The study's name of a column -> the header here, as given now and before.

    Args:
        given: 'NAME=HEADER', which are kept; 'NAME=NAME' ends what was given before.

    Raises:
        UsageError: the study has no such column.
        BadDataError: `columns.json` is damaged.
    """
    names = dataset.column_names()
    before = _read(folder)
    pairs = [*before.items(), *(_split(text, names) for text in given)]
    columns = {dataset.column_name(name): header for name, header in pairs}
    columns = {name: header for name, header in columns.items() if name != header}
    for name in columns:
        if name not in names:
            raise _unknown(name, names)
    if columns != before:
        write_json(folder.columns, columns)
    return columns


def _read(folder: StudyFolder) -> dict[str, str]:
    if not folder.columns.is_file():
        return {}
    hint = "delete the file and give --column again"
    return read_json(folder.columns, dict[str, str], "the map of columns", hint)


def _split(text: str, names: Sequence[str]) -> tuple[str, str]:
    """'NAME=HEADER' in two; a name of the study may have an equals sign itself."""
    pairs = [(text[:index], text[index + 1 :]) for index, sign in enumerate(text) if sign == "="]
    if not pairs or not pairs[0][1]:
        raise UsageError(f"'--column {text}' does not parse", expected="NAME=HEADER")
    return next((pair for pair in pairs if pair[0] in names and pair[1]), pairs[0])


def _unknown(name: str, names: Sequence[str]) -> UsageError:
    if not names:
        return UsageError(
            "this study's source is not a table, so it has no columns",
            where="--column",
            hint="leave it out, and delete columns.json if it is there",
        )
    return UsageError(
        f"the study has no column '{name}'{nearest(name, names)}",
        where="--column",
        expected=f"one of {', '.join(names)}",
    )
