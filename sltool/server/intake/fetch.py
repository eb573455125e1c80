"""`queue fetch`: copy what sites shipped to a bucket, an SFTP server or a disk to the inbox."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sltool.files import read_json, write_json
from sltool.progress import Progress
from sltool.remote import RemoteFolder, open_remote
from sltool.server.intake.inbox import free_name, kind_of
from sltool.study.layout import StudyFolder

# Where from -> the file's name -> its version there.
FetchedRecord = dict[str, dict[str, str]]


@dataclass(frozen=True)
class Fetched:
    """The names of the files that were copied now, and how many were fetched before."""

    source: str
    files: list[str]
    before: int


def fetch(folder: StudyFolder, source: str, progress: Progress) -> Fetched:
    """Copy to the inbox the shards and withdrawals at `source` that were not fetched before.

    The source is left as it is. Files that appear in the inbox are complete, so a server may be at
    work on it.

    Args:
        source: a folder, or a URL as `sltool.remote.open_remote` takes it.

    Raises:
        StorageError: the source cannot be read, or the inbox not written.
        NotTrustedError: an SFTP server whose key is not known.
    """
    record = _record(folder)
    known = record.get(source, {})
    with open_remote(source) as remote:
        there = {name: v for name, v in sorted(remote.versions().items()) if _is_wanted(name)}
        new = {name: v for name, v in there.items() if known.get(name) != v}
        with progress.bar("fetch", len(new)) as advance:
            for name, version in new.items():
                _copy(remote, name, folder)
                known = {**known, name: version}
                write_json(folder.fetched, {**record, source: known})
                advance(1)
    return Fetched(source, list(new), len(there) - len(new))


def _is_wanted(name: str) -> bool:
    """Whether it is a shard or a withdrawal by its name, which may be anything."""
    return bool(kind_of(Path(name))) and Path(name).name == name


def _copy(remote: RemoteFolder, name: str, folder: StudyFolder) -> None:
    # Two sources may have files of one name: the queue reads a shard's own name in its manifest.
    remote.get(name, free_name(folder.inbox, name))


def _record(folder: StudyFolder) -> FetchedRecord:
    if not folder.fetched.exists():
        return {}
    hint = "delete it: then files are fetched again, and the queue recognises what it has"
    return read_json(folder.fetched, FetchedRecord, "the record of `queue fetch`", hint)
