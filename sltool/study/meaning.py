"""Comparing two encodings: which key of `study.yaml` differs, with both values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

# Names for the parts of `Study.meaning` that are not keys of study.yaml.
NAMES = {"study": "id", "privacy_layer": "the SHA-256 of privacy-layer.safetensors"}


def flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested sections, by dotted key."""
    values: dict[str, Any] = {}
    for key, value in section.items():
        name = prefix + (key if prefix else NAMES.get(key, key))
        values.update(flat(value, f"{name}.") if isinstance(value, dict) else {name: value})
    return values


def shown(values: Mapping[str, Any], key: str) -> str:
    """A value for a message, or 'absent'."""
    return json.dumps(values[key]).strip('"') if key in values else "absent"


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(key, our value, their value) for each key in which two `Study.meaning`s differ."""
    mine, other = flat(ours), flat(theirs)
    return [
        (key, shown(mine, key), shown(other, key))
        for key in {**mine, **other}
        if mine.get(key) != other.get(key)
    ]
