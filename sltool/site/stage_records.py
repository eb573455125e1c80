"""The site's small JSON records of finished stages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NotRequired, TypeVar

from pydantic import StringConstraints
from typing_extensions import TypedDict

from sltool.files import read_json

Record = TypeVar("Record")

# The format of `ShardId.name`: a record must not name files outside the outbox.
SHARD_NAME = r"^[A-Za-z][A-Za-z0-9_]{0,31}-(train|validation|test|prediction)-[0-9]{5}\.h5$"
ShardName = Annotated[str, StringConstraints(pattern=SHARD_NAME)]


class BatchRecord(TypedDict):
    """The shards that were encoded together, and their samples; of cases also from what."""

    samples: int
    shards: list[ShardName]
    state: NotRequired[dict[str, Any]]


class EncodedRecord(TypedDict):
    """`encoded.json`: the inputs and the shards of the last encoding.

    `withdrawn` counts the rows left out; `dead` as in `sltool.site.encode.EncodingResult`;
    `label_epsilon` is there if the labels are randomised responses.
    `batches` has an entry for the site's first samples and for each time that it has grown, and
    `digests` the digest of each shard's manifest; both are absent in records of earlier versions.
    """

    state: dict[str, Any]
    samples: int
    shards: list[ShardName]
    withdrawn: NotRequired[int]
    dead: NotRequired[float]
    label_epsilon: NotRequired[float]
    batches: NotRequired[list[BatchRecord]]
    digests: NotRequired[dict[str, str]]


class Sent(TypedDict):
    """Digests of a shipped file: in the outbox, and as sent, which differ if it was encrypted.

    `outbox` and `travelled` are hex SHA-256; `bytes` is the size of the file as sent.
    """

    outbox: str
    travelled: str
    bytes: int


# `shipped.json`: destination -> the outbox file's name -> what was sent.
ShippedRecord = dict[str, dict[str, Sent]]


def read_record(path: Path, kind: type[Record]) -> Record | None:
    """The record, or None if the stage has not finished.

    Raises:
        StorageError: the file cannot be read.
        BadDataError: the file is damaged.
    """
    if not path.exists():
        return None
    hint = "delete the file and run the stage again"
    return read_json(path, kind, "the record of a finished stage", hint)
