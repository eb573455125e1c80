"""The site's small JSON records of finished stages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sltool.errors import BadDataError, StorageError


def read_record(path: Path) -> dict[str, Any]:
    """The record, or {} where the stage has not finished.

    Raises:
        BadDataError: the file was damaged.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StorageError.of(error, path, "read") from error
    try:
        record = json.loads(text)
    except ValueError as error:
        raise BadDataError(
            "the record of a finished stage is damaged",
            where=path,
            hint="delete the file and run the stage again",
        ) from error
    return record if isinstance(record, dict) else {}
