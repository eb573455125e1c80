"""What pydantic finds wrong in study.yaml, told in the file's own words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from sltool.errors import StudyFileError, nearest


def format_validation_error(
    schema: type[BaseModel], error: ValidationError, where: str | Path, prefix: str
) -> StudyFileError:
    """The first mistakes, each with its path, and the nearest key or the allowed values."""
    told = []
    for mistake in error.errors(include_url=False):
        path = ".".join([*filter(None, [prefix]), *(str(step) for step in mistake["loc"])])
        if mistake["type"] == "extra_forbidden":
            keys = _keys_beside(schema, mistake["loc"])
            told.append(
                f"unknown key '{path}'{nearest(str(mistake['loc'][-1]), keys)} "
                f"(allowed: {', '.join(keys)})"
            )
        else:
            # A section as a whole would be too long to show.
            shown = mistake["type"] != "missing" and not isinstance(mistake["input"], dict)
            got = f", not {mistake['input']!r}" if shown else ""
            message = mistake["msg"].removeprefix("Value error, ")
            told.append(": ".join(filter(None, [path, message])) + got)
    return StudyFileError(
        told[0] if len(told) == 1 else f"{len(told)} mistakes: " + "; ".join(told),
        where=where,
        hint="correct the file and run the command again",
    )


def _keys_beside(schema: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """The keys that are allowed where the last step of `loc` stands."""
    for step in loc[:-1]:
        field = schema.model_fields.get(str(step))
        if field is None:
            # Inside `sites`, the step is a site's name and the value a Site.
            continue
        annotation: Any = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            schema = annotation
        else:
            schema = getattr(annotation, "__args__", (None, schema))[-1]
    return list(schema.model_fields)
