"""`partition`: copy each site's rows of `prepared.h5` to its own private folder."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from sltool.files import close_to_others, early_writeback, part_of, private_folder, write_csv
from sltool.progress import Progress
from sltool.site.column_sites import sites_by_column, whole_patients
from sltool.site.division import Division
from sltool.site.private_file import PrivateFile, create_private, open_private, write_text_column
from sltool.site.split import Assignment, assign, assign_by
from sltool.site.withdrawals import (
    PRIVATE_COLUMNS,
    Withdrawals,
    describe_withdrawn,
    save_former_pseudonyms,
)
from sltool.study.layout import SiteFolder, StudyFolder
from sltool.study.schema import SPLITS, Study

# Bytes read at a time: few enough to stay in the processor's cache until they are written.
SLAB_BYTES = 2**22
# Sites that are written at a time: each has two open files, of the 1,024 that are usual.
OPEN_FILES = 200
# Sites that are named one by one in notes.
SHOWN = 10
WRITEBACK_BYTES = 2**26


def partition(
    folder: StudyFolder,
    study: Study,
    division: Division,
    progress: Progress,
    seed: int | None,
    state: str,
) -> Assignment:
    """Copy each site's rows of `prepared.h5` to its `private.h5`, and write `pseudonyms.csv`.

    Patients who withdrew are left out.

    Args:
        division: which sites there are, and what they get.
        seed: of simulated sites. None, for a real site: draw the split, the order of rows and the
            views from the system's entropy, so that nobody can infer the order of admission.
        state: stored in each `private.h5` to recognise finished work.
    """
    with open_private(folder.prepared, study.id, "sltool prepare") as prepared:
        people = People.read(prepared)
        rows = _allowed_rows(folder, people, progress)
        assignment = _assign(prepared, people, rows, study, division, seed, progress)
        note_absent_classes(assignment, prepared.labels[rows], study, progress)
        parts = []
        for site_index, name in enumerate(assignment.sites):
            site_seed = None if seed is None else seed * 1000 + site_index
            order = _shipping_order(assignment, site_index, site_seed)
            views_seed = secrets.randbits(128) if site_seed is None else site_seed
            site, splits = folder.site(name), assignment.split[order]
            parts.append(Part(site, rows[order], splits, views_seed))
        for first in range(0, len(parts), OPEN_FILES):
            some = parts[first : first + OPEN_FILES]
            _write_parts(study, prepared, people, some, progress, state)
    return assignment


def _assign(
    prepared: PrivateFile,
    people: People,
    rows: NDArray[np.int64],
    study: Study,
    division: Division,
    seed: int | None,
    progress: Progress,
) -> Assignment:
    """The split and the site of each of these rows of `prepared.h5`."""
    groups, official = np.array(people.groups)[rows], np.array(prepared.text("official"))[rows]
    samples = (prepared.labels[rows], groups.tolist(), official.tolist(), study.split)
    if division.by is None:
        return assign(*samples, division.shares, division.names, seed, division.skews)
    sites = sites_by_column(prepared, division.by)
    index = whole_patients(sites.index[rows], groups, sites, progress)
    return assign_by(*samples, index, sites.names, seed)


@dataclass(frozen=True)
class People:
    """The record, patient and examination of each sample of `prepared.h5`."""

    records: list[str]
    groups: list[str]
    examinations: list[str]

    @classmethod
    def read(cls, prepared: PrivateFile) -> People:
        return cls(*(prepared.text(name) for name in ("records", "groups", "examinations")))

    def names_patients(self, rows: Iterable[int]) -> bool:
        """Whether the source names a patient of these rows: without a name, the record stands."""
        return any(self.groups[row] != self.records[row] for row in rows)


@dataclass(frozen=True)
class Part:
    """One site's samples.

    Attributes:
        rows: (n,) rows of `prepared.h5`, in shipping order.
        splits: (n,) index into `SPLITS` of each row.
        seed: of the random versions of training images.
    """

    site: SiteFolder
    rows: NDArray[np.int64]
    splits: NDArray[np.int64]
    seed: int


def _allowed_rows(folder: StudyFolder, people: People, progress: Progress) -> NDArray[np.int64]:
    """The rows of `prepared.h5` whose patients have not withdrawn."""
    allowed = Withdrawals.read(folder).allowed(people.records, people.groups)
    if not allowed.all():
        progress.note(f"{describe_withdrawn(int((~allowed).sum()))} are assigned to no site")
    return np.flatnonzero(allowed)


def note_absent_classes(
    assignment: Assignment, labels: NDArray[np.generic], study: Study, progress: Progress
) -> None:
    """A note for each site that lacks a class in training; of many sites, their number."""
    is_training = assignment.split == SPLITS.index("train")
    notes = []
    for site_index, site in enumerate(assignment.sites):
        present = set(labels[(assignment.site == site_index) & is_training].tolist())
        absent = [
            f"'{name}'"
            for code, name in enumerate(study.samples.labels.classes)
            if code not in present
        ]
        if absent:
            notes.append(f"site {site} has no training sample of the class {' '.join(absent)}")
    if len(notes) > SHOWN:
        notes = [f"{len(notes)} of {len(assignment.sites)} sites lack a class in training"]
    for note in notes:
        progress.note(note)


def _shipping_order(assignment: Assignment, site: int, seed: int | None) -> NDArray[np.int64]:
    """The site's rows: training, validation, test, each shuffled."""
    shuffle = secret_permutation if seed is None else np.random.default_rng(seed).permutation
    parts = [
        shuffle(np.flatnonzero((assignment.site == site) & (assignment.split == code)))
        for code in range(len(SPLITS))
    ]
    return np.concatenate(parts)


def secret_permutation(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows, shuffled by the system's entropy alone.

    Knowing the positions of some rows reveals nothing about those of the others.
    """
    return rows[np.argsort(np.frombuffer(secrets.token_bytes(8 * len(rows)), np.uint64))]


def _write_parts(
    study: Study,
    prepared: PrivateFile,
    people: People,
    parts: list[Part],
    progress: Progress,
    state: str,
) -> None:
    with ExitStack() as stack:
        inputs = []
        for part in parts:
            close_to_others(private_folder(part.site.private_dir))
            file = stack.enter_context(create_private(part.site.private, study.id, state))
            # As text: HDF5 has no integer of 128 bits.
            file.attrs["seed"] = str(part.seed)
            file.attrs["names_patients"] = people.names_patients(part.rows)
            created = Inputs.make(file, part_of(part.site.private), prepared.inputs, len(part.rows))
            inputs.append(stack.enter_context(created))
            _write_columns(file, prepared, people, part)
        scatter(prepared, parts, inputs, progress)


@dataclass(frozen=True)
class Inputs:
    """A site's inputs: a contiguous array in its file, whose rows are written in any order.

    The array is not mapped into memory: writing to a mapping on a full disk raises SIGBUS, which
    ends the process.
    """

    handle: int
    offset: int
    report_written: Callable[[int], None]

    def after(self, rows: int, row_bytes: int) -> Inputs:
        """The same array from row `rows` on."""
        return replace(self, offset=self.offset + rows * row_bytes)

    @classmethod
    @contextmanager
    def make(cls, file: h5py.File, part: Path, source: h5py.Dataset, rows: int) -> Iterator[Inputs]:
        """Add a contiguous dataset of `rows` rows with the row shape and dtype of `source`."""
        unfilled = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        unfilled.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        unfilled.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        shape = (rows, *source.shape[1:])
        target = file.create_dataset("inputs", shape=shape, dtype=source.dtype, dcpl=unfilled)
        offset = target.id.get_offset()
        with part.open("r+b", buffering=0) as raw:
            # Reserve the space: a full disk is noticed early, and random writes are faster.
            if target.nbytes and hasattr(os, "posix_fallocate"):
                os.posix_fallocate(raw.fileno(), offset, target.nbytes)
            with early_writeback(part, WRITEBACK_BYTES) as report_written:
                yield cls(raw.fileno(), offset, report_written)

    def write(self, index: int, row: NDArray[Any]) -> None:
        """Write `row`, which is C-contiguous, as row `index`."""
        data, offset = row.data.cast("B"), self.offset + index * row.nbytes
        while data:
            count = _write_at(self.handle, data, offset)
            data, offset = data[count:], offset + count
        self.report_written(row.nbytes)


def _write_at(handle: int, data: memoryview, offset: int) -> int:
    """Write to an offset; returns the number of bytes written."""
    if hasattr(os, "pwrite"):
        return os.pwrite(handle, data, offset)
    os.lseek(handle, offset, os.SEEK_SET)
    return os.write(handle, data)


def scatter(
    prepared: PrivateFile, parts: Sequence[Part], inputs: Sequence[Inputs], progress: Progress
) -> None:
    """Copy each sample's input to its site's file in one pass, one block in memory at a time."""
    total, row_bytes = len(prepared.inputs), prepared.inputs.nbytes // len(prepared.inputs)
    part_index, target_row = np.full(total, -1), np.zeros(total, dtype=np.int64)
    for index, part in enumerate(parts):
        part_index[part.rows] = index
        target_row[part.rows] = np.arange(len(part.rows))
    targets = zip(part_index.tolist(), target_row.tolist(), strict=True)
    with progress.bar("partition", total) as advance:
        for batch in _read_ahead(prepared.batches(0, total, max(1, SLAB_BYTES // row_bytes))):
            for sample, (index, row) in zip(batch, targets, strict=False):
                if index >= 0:
                    inputs[index].write(row, sample)
            advance(len(batch))


def _read_ahead(batches: Iterator[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    """The batches; a thread reads the next while the caller works on the last."""
    with ThreadPoolExecutor(1) as thread:
        following = thread.submit(next, batches, None)
        while (batch := following.result()) is not None:
            following = thread.submit(next, batches, None)
            yield batch


def _write_columns(file: h5py.File, prepared: PrivateFile, people: People, part: Part) -> None:
    """Write all columns but the inputs, and the table that maps pseudonyms to patients."""
    file["labels"] = prepared.labels[part.rows]
    splits = [SPLITS[code] for code in part.splits]
    pseudonyms = random_ids(len(part.rows))
    groups = group_pseudonyms(people, part.rows)
    for name, values in (
        ("split", splits),
        ("pseudonyms", pseudonyms),
        ("group_pseudonyms", groups),
    ):
        write_text_column(file, name, values)
    originals = (
        [column[row] for row in part.rows]
        for column in (people.records, people.groups, people.examinations)
    )
    rows = zip(pseudonyms, groups, splits, *originals, strict=True)
    save_former_pseudonyms(part.site)
    write_csv(
        part.site.pseudonyms,
        (dict(zip(PRIVATE_COLUMNS, row, strict=True)) for row in rows),
        PRIVATE_COLUMNS,
    )


def random_ids(count: int) -> list[str]:
    """Pseudonyms: 32 random hex digits each."""
    digits = secrets.token_hex(16 * count)
    return [digits[start : start + 32] for start in range(0, len(digits), 32)]


def group_pseudonyms(
    people: People, rows: NDArray[np.int64], known: Mapping[tuple[str, ...], str] | None = None
) -> list[str]:
    """A random id for each patient, followed by a slash and one for the examination, if named.

    Args:
        known: (patient,) and (patient, examination) -> the id that they have already.
    """
    ids = dict(known or {})

    def random_id(*key: str) -> str:
        return ids.setdefault(key, secrets.token_hex(16))

    pseudonyms = []
    for row in rows:
        patient, examination = people.groups[row], people.examinations[row]
        pseudonym = random_id(patient)
        if examination:
            pseudonym += "/" + random_id(patient, examination)
        pseudonyms.append(pseudonym)
    return pseudonyms
