"""Checks that study.yaml has the encoding of the accepted shards; names the keys that changed."""

from __future__ import annotations

from typing import Any

from sltool.errors import BadDataError, ShardRefusedError
from sltool.files import read_json, write_json
from sltool.shard.manifest import Content
from sltool.shard.reader import read_manifest
from sltool.study.layout import StudyFolder
from sltool.study.meaning import NAMES, flat, shown
from sltool.study.schema import Study, digest_of


def check_encoding(folder: StudyFolder, study: Study, digest: str) -> None:
    """Compare the study's encoding digest with that of the accepted shards.

    Raises:
        BadDataError: they differ; the message names the changed keys with both values. No file is
            moved.
    """
    accepted = _accepted(folder)
    if accepted is None or accepted.encoding == digest:
        return
    now = flat(study.meaning(folder.privacy_layer))
    recorded = _recorded(folder, accepted.encoding)
    was = _manifest_settings(accepted) if recorded is None else flat(recorded)
    keys = was if recorded is None else {**was, **now}
    changed = [key for key in keys if was.get(key) != now.get(key)]
    facts = [f"{key} is {shown(now, key)}, and was {shown(was, key)}" for key in changed]
    raise BadDataError(
        "study.yaml does not fit the accepted shards: "
        + ("; ".join(facts) or "a key of dataset, samples, model or encoding was changed"),
        where=folder.study_file,
        expected="; ".join(f"{key}: {shown(was, key)}" for key in changed)
        or f"the encoding digest {accepted.encoding}, not {digest}",
        hint="undo the change; nothing was moved. For a new encoding, move server/accepted "
        "elsewhere, and let every site encode and ship again",
    )


def record_encoding(folder: StudyFolder, study: Study, digest: str) -> None:
    """Write what the digest covers, for later messages of `check_encoding`; call it after that."""
    if _recorded(folder, digest) is None:
        write_json(folder.encoding, study.meaning(folder.privacy_layer))


def _accepted(folder: StudyFolder) -> Content | None:
    """The content record of any accepted shard: all accepted shards have the same encoding."""
    for path in sorted(folder.accepted.glob("*.h5")):
        try:
            return read_manifest(path)[0].content
        except ShardRefusedError:
            # The queue rejects the damaged shard when it rebuilds the store.
            continue
    return None


def _recorded(folder: StudyFolder, digest: str) -> dict[str, Any] | None:
    """The recorded encoding with this digest; None if there is none."""
    if not folder.encoding.is_file():
        return None
    try:
        record = read_json(folder.encoding, dict[str, Any], "the record of the encoding", "")
    except BadDataError:
        return None
    return record if digest_of(record) == digest else None


def _manifest_settings(content: Content) -> dict[str, Any]:
    """The settings of the encoding that a shard's manifest contains, with the keys of `flat`."""
    scale = content.scale
    quantisation = (
        {"encoding.dtype": content.dtype}
        if scale is None
        else {"encoding.bits": scale.bits, "encoding.range": [scale.low, scale.high]}
    )
    return {
        NAMES["study"]: content.study,
        **quantisation,
        "encoding.clip": content.noise.clip,
        "encoding.noise": content.noise.sd,
        "samples.labels.kind": content.label,
    }
