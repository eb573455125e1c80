"""`partition`: copy each site's rows of `prepared.h5` to its own private folder."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from sltool.files import close_to_others, part_of, private_folder, write_csv
from sltool.progress import Progress
from sltool.site.private_file import PrivateFile, create_private, open_private, write_text_column
from sltool.site.split import Assignment, assign
from sltool.site.withdrawals import (
    PRIVATE_COLUMNS,
    Withdrawals,
    keep_former,
    told,
)
from sltool.study.layout import SiteFolder, StudyFolder
from sltool.study.schema import SPLITS, Study

# Read at a time: little enough to stay in the processor's cache until it is written.
SLAB_BYTES = 2**22


def partition(
    folder: StudyFolder,
    study: Study,
    ratios: list[float],
    names: list[str],
    progress: Progress,
    seed: int | None,
    state: str,
) -> Assignment:
    """Copy each site's rows of `prepared.h5` to its `private.h5`, and write `pseudonyms.csv`.

    Patients who withdrew are left out.

    Args:
        seed: of simulated sites. None, for a real one: draw the split, the order of rows and the
            views from the system's entropy, so that nobody can tell the order of admission.
        state: kept in each `private.h5`, to recognise work that is done.
    """
    with open_private(folder.prepared, study.id, "sltool prepare") as prepared:
        people = _People.of(prepared)
        kept = _not_withdrawn(folder, people, progress)
        labels = prepared.labels[kept]
        groups, official = np.array(people.groups)[kept], np.array(prepared.text("official"))[kept]
        assignment = assign(
            labels, groups.tolist(), official.tolist(), study.split, ratios, names, seed
        )
        _note_absent_classes(assignment, labels, study, progress)
        parts = []
        for number, name in enumerate(names):
            site_seed = None if seed is None else seed * 1000 + number
            order = _shipping_order(assignment, number, site_seed)
            views_seed = secrets.randbits(128) if site_seed is None else site_seed
            site, splits = folder.site(name), assignment.split[order]
            parts.append(_Part(site, kept[order], splits, views_seed))
        _write_parts(study, prepared, people, parts, progress, state)
    return assignment


@dataclass(frozen=True)
class _People:
    """Who the samples of `prepared.h5` belong to."""

    records: list[str]
    groups: list[str]
    examinations: list[str]

    @classmethod
    def of(cls, prepared: PrivateFile) -> _People:
        return cls(*(prepared.text(name) for name in ("records", "groups", "examinations")))


@dataclass(frozen=True)
class _Part:
    """One site's share: the rows of `prepared.h5` in shipping order, and the split of each.

    Attributes:
        seed: of the views.
    """

    site: SiteFolder
    rows: NDArray[np.int64]
    splits: NDArray[np.int64]
    seed: int


def _not_withdrawn(folder: StudyFolder, people: _People, progress: Progress) -> NDArray[np.int64]:
    """The rows of `prepared.h5` that may be used."""
    keep = Withdrawals.read(folder).keeps(people.records, people.groups)
    if not keep.all():
        progress.note(f"{told(int((~keep).sum()))} are at no site")
    return np.flatnonzero(keep)


def _note_absent_classes(
    assignment: Assignment, labels: NDArray[np.generic], study: Study, progress: Progress
) -> None:
    for number, site in enumerate(assignment.sites):
        here = labels[(assignment.site == number) & (assignment.split == SPLITS.index("train"))]
        absent = [
            f"'{name}'"
            for code, name in enumerate(study.samples.labels.classes)
            if not (here == code).any()
        ]
        if absent:
            progress.note(f"site {site} has no training sample of the class {' '.join(absent)}")


def _shipping_order(assignment: Assignment, site: int, seed: int | None) -> NDArray[np.int64]:
    """The site's rows: training, validation, test, each shuffled."""
    shuffled = _secretly_shuffled if seed is None else np.random.default_rng(seed).permutation
    parts = [
        shuffled(np.flatnonzero((assignment.site == site) & (assignment.split == code)))
        for code in range(len(SPLITS))
    ]
    return np.concatenate(parts)


def _secretly_shuffled(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """In an order of the system's entropy alone: from some rows' places no other's follows."""
    return rows[np.argsort(np.frombuffer(secrets.token_bytes(8 * len(rows)), np.uint64))]


def _write_parts(
    study: Study,
    prepared: PrivateFile,
    people: _People,
    parts: list[_Part],
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
            making = _Inputs.make(file, part_of(part.site.private), prepared.inputs, len(part.rows))
            inputs.append(stack.enter_context(making))
            _write_columns(file, prepared, people, part)
        _scatter(prepared, parts, inputs, progress)


@dataclass(frozen=True)
class _Inputs:
    """A site's inputs: a plain array in its file, whose rows are written in any order.

    Not mapped into memory: to write where the disk has no space would end the process.
    """

    handle: int
    offset: int

    @classmethod
    @contextmanager
    def make(
        cls, file: h5py.File, part: Path, source: h5py.Dataset, rows: int
    ) -> Iterator[_Inputs]:
        """Add a contiguous dataset for `rows` rows like those of `source`."""
        unfilled = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        unfilled.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        unfilled.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        shape = (rows, *source.shape[1:])
        target = file.create_dataset("inputs", shape=shape, dtype=source.dtype, dcpl=unfilled)
        offset = target.id.get_offset()
        with part.open("r+b", buffering=0) as raw:
            # A full disk is noticed before the work, and writes in any order are faster.
            if target.nbytes and hasattr(os, "posix_fallocate"):
                os.posix_fallocate(raw.fileno(), offset, target.nbytes)
            yield cls(raw.fileno(), offset)

    def write(self, place: int, row: NDArray[Any]) -> None:
        """Put `row`, C-contiguous, at its place."""
        data, offset = row.data.cast("B"), self.offset + place * row.nbytes
        while data:
            count = os.pwrite(self.handle, data, offset)
            data, offset = data[count:], offset + count


def _scatter(
    prepared: PrivateFile, parts: list[_Part], inputs: list[_Inputs], progress: Progress
) -> None:
    """Copy the inputs to their places in one pass, a bounded block in memory at a time."""
    total, row_bytes = len(prepared.inputs), prepared.inputs.nbytes // len(prepared.inputs)
    owner, place = np.full(total, -1), np.zeros(total, dtype=np.int64)
    for number, part in enumerate(parts):
        owner[part.rows] = number
        place[part.rows] = np.arange(len(part.rows))
    targets = zip(owner.tolist(), place.tolist(), strict=True)
    with progress.bar("partition", total) as advance:
        for batch in prepared.batches(0, total, max(1, SLAB_BYTES // row_bytes)):
            for row, (number, where) in zip(batch, targets, strict=False):
                if number >= 0:
                    inputs[number].write(where, row)
            advance(len(batch))


def _write_columns(file: h5py.File, prepared: PrivateFile, people: _People, part: _Part) -> None:
    """The columns beside the inputs, and the table that leads from a pseudonym to the patient."""
    file["labels"] = prepared.labels[part.rows]
    splits = [SPLITS[code] for code in part.splits]
    digits = secrets.token_hex(16 * len(part.rows))
    pseudonyms = [digits[start : start + 32] for start in range(0, len(digits), 32)]
    groups = _group_pseudonyms(people, part.rows)
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
    keep_former(part.site)
    write_csv(
        part.site.pseudonyms,
        (dict(zip(PRIVATE_COLUMNS, row, strict=True)) for row in rows),
        PRIVATE_COLUMNS,
    )


def _group_pseudonyms(people: _People, rows: NDArray[np.int64]) -> list[str]:
    """A random id for each patient and, after a slash, for each examination of a patient."""
    ids: dict[tuple[str, ...], str] = {}

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
