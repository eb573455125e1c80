"""Conversion of pydantic's errors to messages in the terms of study.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from sltool.errors import StudyFileError, nearest


def format_validation_error(
    schema: type[BaseModel], error: ValidationError, where: str | Path, prefix: str
) -> StudyFileError:
    """An error with all mistakes, each with its path and the nearest key or allowed values."""
    messages = []
    for mistake in error.errors(include_url=False):
        path = ".".join([*filter(None, [prefix]), *(str(step) for step in mistake["loc"])])
        if mistake["type"] == "extra_forbidden":
            keys = _keys_beside(schema, mistake["loc"])
            messages.append(
                f"unknown key '{path}'{nearest(str(mistake['loc'][-1]), keys)} "
                f"(allowed: {', '.join(keys)})"
            )
        else:
            # A section as a whole would be too long to show.
            shown = mistake["type"] != "missing" and not isinstance(mistake["input"], dict)
            got = f", not {mistake['input']!r}" if shown else ""
            message = mistake["msg"].removeprefix("Value error, ")
            messages.append(": ".join(filter(None, [path, message])) + got)
    return StudyFileError(
        messages[0] if len(messages) == 1 else f"{len(messages)} mistakes: " + "; ".join(messages),
        where=where,
        hint="correct the file and run the command again",
    )


def _keys_beside(schema: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """The keys that are allowed at the level of the last step of `loc`."""
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
