"""`partition.json`: how `partition` divided the samples, for `status` and the reports."""

from __future__ import annotations

from typing import Any

from typing_extensions import TypedDict

from sltool.files import read_json
from sltool.study.layout import StudyFolder


class PartitionRecord(TypedDict):
    """The keys of `partition.json`.

    `division` is how the samples were divided, in words; `options` are those that were typed;
    `seed` is null at a real site; `sites` has the samples of each site by split.
    """

    division: str
    options: dict[str, Any]
    seed: int | None
    sites: dict[str, dict[str, int]]


def read_partition(folder: StudyFolder) -> PartitionRecord | None:
    """The record; None where nothing was divided, as at a server.

    Raises:
        BadDataError: the file is damaged.
    """
    if not folder.partition.is_file():
        return None
    hint = "delete the file and run `sltool partition` again"
    return read_json(folder.partition, PartitionRecord, "the record of the partition", hint)
