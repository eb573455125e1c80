"""Self-contained HTML pages: one file that opens from disk, on a phone, dark or light."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Cell:
    """A table cell: its text, a note below it, and its sort key."""

    text: str
    note: str = ""
    sort: float | None = None


@dataclass(frozen=True)
class TableRow:
    cells: Sequence[Cell]
    reference: bool = False


@dataclass(frozen=True)
class DataTable:
    columns: Sequence[str]
    rows: Sequence[TableRow]


def render(package: str, template: str, content: Mapping[str, Any]) -> str:
    """The HTML text of a page.

    Args:
        package: the package whose `templates/` has the template; it may extend `page.html` and
            import from `table.html`, which are in `sltool/templates/`.
        content: the template's variables; a missing variable is an error.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("sltool")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(content)
