"""What was accepted and study.yaml have to be of one encoding; if not, which key was changed."""

from __future__ import annotations

import json
from typing import Any

from sltool.errors import BadDataError, ShardRefusedError
from sltool.files import read_json, write_json
from sltool.shard.manifest import Content
from sltool.shard.reader import read_manifest
from sltool.study.layout import StudyFolder
from sltool.study.schema import Study, digest_of

# What the parts of `Study.meaning` are called that are no keys of study.yaml.
NAMES = {"study": "id", "privacy_layer": "the SHA-256 of privacy-layer.safetensors"}


def check_encoding(folder: StudyFolder, study: Study, digest: str) -> None:
    """Compare the study's encoding digest with that of the accepted shards.

    Raises:
        BadDataError: they differ; it names the changed keys with both values. Nothing is moved.
    """
    accepted = _accepted(folder)
    if accepted is None or accepted.encoding == digest:
        return
    now = _flat(study.meaning(folder.privacy_layer))
    recorded = _recorded(folder, accepted.encoding)
    was = _of_manifest(accepted) if recorded is None else _flat(recorded)
    keys = was if recorded is None else {**was, **now}
    changed = [key for key in keys if was.get(key) != now.get(key)]
    facts = [f"{key} is {_shown(now, key)}, and was {_shown(was, key)}" for key in changed]
    raise BadDataError(
        "study.yaml does not fit the accepted shards: "
        + ("; ".join(facts) or "a key of dataset, samples, model or encoding was changed"),
        where=folder.study_file,
        expected="; ".join(f"{key}: {_shown(was, key)}" for key in changed)
        or f"the encoding digest {accepted.encoding}, not {digest}",
        hint="undo the change; nothing was moved. For a new encoding, move server/accepted "
        "elsewhere, and let every site encode and ship again",
    )


def record_encoding(folder: StudyFolder, study: Study, digest: str) -> None:
    """Keep what the digest covers, for the message of `check_encoding`, which has passed."""
    if _recorded(folder, digest) is None:
        write_json(folder.encoding, study.meaning(folder.privacy_layer))


def _accepted(folder: StudyFolder) -> Content | None:
    """What an accepted shard holds: all have the same encoding, as no other is taken in."""
    for path in sorted(folder.accepted.glob("*.h5")):
        try:
            return read_manifest(path)[0].content
        except ShardRefusedError:
            # The queue finds out what is wrong with it when it makes the store again.
            continue
    return None


def _recorded(folder: StudyFolder, digest: str) -> dict[str, Any] | None:
    """The record of the encoding with this digest; without it the message says less."""
    if not folder.encoding.is_file():
        return None
    try:
        found = read_json(folder.encoding, dict[str, Any], "the record of the encoding", "")
    except BadDataError:
        return None
    return found if digest_of(found) == digest else None


def _of_manifest(content: Content) -> dict[str, Any]:
    """The little that a shard says of its encoding, by the keys of `_flat`."""
    return {
        NAMES["study"]: content.study,
        "encoding.dtype": content.dtype,
        "encoding.clip": content.noise.clip,
        "encoding.noise": content.noise.sd,
        "samples.labels.kind": content.label,
    }


def _flat(section: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested sections by their dotted keys."""
    values: dict[str, Any] = {}
    for key, value in section.items():
        name = prefix + (key if prefix else NAMES.get(key, key))
        values.update(_flat(value, f"{name}.") if isinstance(value, dict) else {name: value})
    return values


def _shown(values: dict[str, Any], key: str) -> str:
    return json.dumps(values[key]).strip('"') if key in values else "absent"
