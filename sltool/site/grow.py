"""`partition` at a real site whose source has grown: new samples join, known ones keep their place.

A sample is recognised by its content and its patient, not by its row: a table may be sorted anew.
Known samples keep their pseudonyms, splits and rows in `private.h5`; the new ones follow them.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sltool.errors import BadDataError, StageOrderError
from sltool.files import part_of, sha256, write_csv
from sltool.progress import Progress
from sltool.site.partition import (
    Inputs,
    Part,
    People,
    group_pseudonyms,
    note_absent_classes,
    random_ids,
    scatter,
    secret_permutation,
)
from sltool.site.private_file import (
    PrivateFile,
    Version,
    create_private,
    open_private,
    write_text_column,
    write_versions,
)
from sltool.site.split import assign
from sltool.site.withdrawals import PRIVATE_COLUMNS, Withdrawals, read_people
from sltool.study.layout import SiteFolder, StudyFolder
from sltool.study.schema import SPLITS, Study
from sltool.wording import plural

# From this share of changed samples on, the source is taken for another one.
MOST_CHANGED = 0.1
SHOWN = 3
# How datasets name the rows of a table: such a record may be another sample after sorting.
ROW = re.compile(r"(line|row) \d+")


def grow(
    folder: StudyFolder, study: Study, site: SiteFolder, progress: Progress, state: str
) -> dict[str, int]:
    """Add the new samples of `prepared.h5` to the site; returns their number in each split.

    New samples of a known patient get the patient's pseudonym and split; new patients are drawn
    into splits, so that all samples together have the shares of the study. Samples that are no
    longer in the source stay, since they may have been shipped, and so do those that have changed,
    in their earlier version.

    Args:
        state: as for `partition`.

    Raises:
        BadDataError: the source is not the site's earlier one, or a file is damaged.
        StageOrderError: `pseudonyms.csv` is missing.
    """
    with (
        open_private(folder.prepared, study.id, "sltool prepare") as prepared,
        open_private(site.private, study.id, "sltool partition") as private,
    ):
        _check_inputs(prepared, private)
        known = _Known.read(site, private, progress)
        people = People.read(prepared)
        matches = _match(known, people, list(content_digests(prepared, "compare", progress)))
        _check_same_source(matches, known, people, site)
        withdrawals = Withdrawals.read(folder)
        _note_differences(matches, known, people, withdrawals, progress)
        allowed = withdrawals.allowed(people.records, people.groups)
        rows = np.array([row for row in matches.new if allowed[row]], np.int64)
        known.rename(matches.found, people)
        if len(rows):
            part, groups = _draw(study, site, prepared, people, known, private, rows, progress)
            pseudonyms = random_ids(len(rows))
    if not len(rows):
        known.write(site, [])
        return dict.fromkeys(SPLITS, 0)
    splits = [SPLITS[code] for code in part.splits]
    columns = (people.records, people.groups, people.examinations)
    originals = ([column[row] for row in part.rows] for column in columns)
    # First, so that after a crash in between no pseudonym in `private.h5` lacks its patient.
    known.write(site, zip(pseudonyms, groups, splits, *originals, strict=True))
    added = {"split": splits, "pseudonyms": pseudonyms, "group_pseudonyms": groups}
    _write(folder, study, site, part, people, added, progress, state)
    counts = Counter(splits)
    return {split: counts[split] for split in SPLITS}


@dataclass
class _Known:
    """The samples of the site's `private.h5`, in its order.

    Attributes:
        people: a row of `pseudonyms.csv` for each.
        digests: of each sample's content.
    """

    people: list[dict[str, str]]
    digests: list[bytes]

    @classmethod
    def read(cls, site: SiteFolder, private: PrivateFile, progress: Progress) -> _Known:
        rows = {row["pseudonym"]: row for row in read_people(site.pseudonyms, PRIVATE_COLUMNS)}
        pseudonyms = private.text("pseudonyms")
        missing = sum(pseudonym not in rows for pseudonym in pseudonyms)
        if missing:
            raise StageOrderError(
                f"{missing} of the site's {len(pseudonyms)} samples are not in pseudonyms.csv",
                where=site.pseudonyms,
                hint="bring the table back from a backup: without it nobody knows which patient "
                "has which pseudonym",
            )
        digests = list(content_digests(private, "recognise", progress))
        return cls([rows[pseudonym] for pseudonym in pseudonyms], digests)

    def named(self, index: int) -> bool:
        """Whether the source names the patient: without a name, the record stands for it."""
        return self.people[index]["patient"] != self.people[index]["record"]

    def rename(self, found: dict[int, int], people: People) -> None:
        """Write down where the samples are in the source now."""
        for row, index in found.items():
            record, patient = people.records[row], people.groups[row]
            self.people[index] = {**self.people[index], "record": record, "patient": patient}

    def patients(self) -> dict[tuple[str, ...], str]:
        """(patient,) and (patient, examination) -> their pseudonyms; for named patients only."""
        ids: dict[tuple[str, ...], str] = {}
        for index, row in enumerate(self.people):
            if self.named(index):
                patient, _, examination = row["group"].partition("/")
                ids[row["patient"],] = patient
                if examination:
                    ids[row["patient"], row["examination"]] = examination
        return ids

    def write(self, site: SiteFolder, new: Iterable[tuple[str, ...]]) -> None:
        """Write `pseudonyms.csv`, with rows of `PRIVATE_COLUMNS` for new samples."""
        added = (dict(zip(PRIVATE_COLUMNS, row, strict=True)) for row in new)
        write_csv(site.pseudonyms, [*self.people, *added], PRIVATE_COLUMNS)


# Content, record and named patient of a sample.
_Key = tuple[bytes, str, str | None]


@dataclass
class _Matches:
    """What became of the known samples.

    Attributes:
        found: row of `prepared.h5` -> index of the known sample with the same content.
        changed: the same for samples whose content has changed.
        new: rows of `prepared.h5` of samples that were not known.
        gone: known samples that are no longer in the source.
    """

    found: dict[int, int] = field(default_factory=dict)
    changed: dict[int, int] = field(default_factory=dict)
    new: list[int] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)

    def pair(
        self,
        ours: list[_Key],
        theirs: list[_Key],
        into: dict[int, int],
        part: Callable[[_Key], tuple[object, ...] | None],
    ) -> None:
        """Move samples of `new` and `gone` whose keys agree in a part to `into`, one to one.

        Samples whose key has no such part (None) are not moved.
        """
        waiting: dict[tuple[object, ...] | None, list[int]] = defaultdict(list)
        for index in reversed(self.gone):
            waiting[part(ours[index])].append(index)
        waiting.pop(None, None)
        paired = {
            row: waiting[part(theirs[row])].pop() for row in self.new if waiting[part(theirs[row])]
        }
        into.update(paired)
        taken = set(paired.values())
        self.new = [row for row in self.new if row not in paired]
        self.gone = [index for index in self.gone if index not in taken]


def _match(known: _Known, people: People, digests: list[bytes]) -> _Matches:
    """Recognise known samples: by content and record, by content and patient, by record."""
    ours = [
        (digest, row["record"], row["patient"] if known.named(index) else None)
        for index, (digest, row) in enumerate(zip(known.digests, known.people, strict=True))
    ]
    theirs = [
        (digest, record, None if patient == record else patient)
        for digest, record, patient in zip(digests, people.records, people.groups, strict=True)
    ]
    matches = _Matches(new=list(range(len(theirs))), gone=list(range(len(ours))))
    matches.pair(ours, theirs, matches.found, lambda key: key)
    matches.pair(ours, theirs, matches.found, lambda key: (key[0], key[2]))
    matches.pair(ours, theirs, matches.changed, lambda key: (key[1], key[2]))
    if 2 * len(matches.found) >= len(ours):
        # The whole table, perhaps sorted anew: a row that is missing and a new one of the same
        # patient are one that has changed. A table of new samples alone lacks the earlier rows.
        matches.pair(ours, theirs, matches.changed, _changed_row)
    return matches


def _changed_row(key: _Key) -> tuple[object, ...] | None:
    _, record, patient = key
    return (patient,) if patient is not None and ROW.fullmatch(record) else None


def content_digests(file: PrivateFile, what: str, progress: Progress) -> Iterator[bytes]:
    """SHA-256 of each sample's input and label, shortened to 16 bytes."""
    labels = file.labels
    row = 0
    with progress.bar(what, len(labels)) as advance:
        for batch in file.batches(0, len(labels)):
            for sample in batch:
                content = hashlib.sha256(np.ascontiguousarray(sample).data)
                content.update(labels[row].tobytes())
                yield content.digest()[:16]
                row += 1
            advance(len(batch))


def _check_inputs(prepared: PrivateFile, private: PrivateFile) -> None:
    ours, theirs = (
        (file.inputs.shape[1:], file.inputs.dtype, file.labels.dtype)
        for file in (private, prepared)
    )
    if ours != theirs:
        raise _another_source(
            "the samples have another shape or type than when the site was made", private.path
        )


def _check_same_source(matches: _Matches, known: _Known, people: People, site: SiteFolder) -> None:
    names = people.names_patients(range(len(people.records)))
    if names != any(known.named(index) for index in range(len(known.people))):
        raise _another_source(
            f"the source names {'its' if names else 'no'} patients, unlike when the site was made",
            site.private,
        )
    patients = {row["patient"] for row in known.people}
    present = patients & set(people.groups)
    same = {known.people[index]["patient"] for index in matches.found.values()}
    if names and 2 * len(present) >= len(patients) > 2 * len(same & present):
        raise _another_source(
            f"the source has {len(present)} of the site's {len(patients)} patients, and of only "
            f"{len(same & present)} a sample that has not changed",
            site.private,
        )
    changed, total = len(matches.changed), len(known.people)
    if changed > max(1, MOST_CHANGED * total) or (changed and not matches.found):
        raise _another_source(
            f"{changed} of the site's {total} samples have another content than when the site was "
            "made",
            site.private,
        )


def _another_source(what: str, where: Path) -> BadDataError:
    return BadDataError(
        what,
        where=where,
        expected="the site's earlier source, with new samples; or new samples alone, of a dataset "
        "that names its patients",
        hint="give `sltool prepare` that source; or `sltool partition --force` makes the site "
        "anew, with new pseudonyms, which do not match shards that were shipped before",
    )


def _note_differences(
    matches: _Matches,
    known: _Known,
    people: People,
    withdrawals: Withdrawals,
    progress: Progress,
) -> None:
    if matches.changed:
        records = [people.records[row] for row in list(matches.changed)[:SHOWN]]
        more = ", ..." if len(matches.changed) > SHOWN else ""
        progress.note(
            f"{_samples(len(matches.changed))} other than when the site was made "
            f"({', '.join(records)}{more}): the earlier version stays, as it may have been shipped"
        )
    gone = [
        index
        for index in matches.gone
        if known.people[index]["pseudonym"] not in withdrawals.pseudonyms
    ]
    if gone:
        progress.note(
            f"{_samples(len(gone))} of this site no longer in the source: they stay in the study; "
            "`sltool withdraw` takes a patient back"
        )


def _samples(count: int) -> str:
    return plural(count, "sample is", "samples are")


def _draw(
    study: Study,
    site: SiteFolder,
    prepared: PrivateFile,
    people: People,
    known: _Known,
    private: PrivateFile,
    rows: NDArray[np.int64],
    progress: Progress,
) -> tuple[Part, list[str]]:
    """The new samples in shipping order with their splits, and their patients' pseudonyms."""
    ids = known.patients()
    # An unnamed patient is new, though another record may have had this name before.
    named = [people.groups[row] != people.records[row] for row in rows]
    patients = [
        ids.get((people.groups[row],), f"new {people.groups[row]}") if has_name else f"row {row}"
        for row, has_name in zip(rows, named, strict=True)
    ]
    known_patients = [row["group"].partition("/")[0] for row in known.people]
    known_splits = [SPLITS.index(split) for split in private.text("split")]
    split_of = dict(zip(known_patients, known_splits, strict=True))
    official = prepared.text("official")
    labels = np.concatenate([private.labels, prepared.labels[rows]])
    assignment = assign(
        labels,
        [*known_patients, *patients],
        [*[""] * len(known_patients), *(official[row] for row in rows)],
        study.split,
        [1.0],
        [site.name],
        None,
        known=np.array([*known_splits, *(split_of.get(patient, -1) for patient in patients)]),
    )
    note_absent_classes(assignment, labels, study, progress)
    drawn = assignment.split[len(known_patients) :]
    order = np.concatenate(
        [secret_permutation(np.flatnonzero(drawn == code)) for code in range(len(SPLITS))]
    )
    part = Part(site, rows[order], drawn[order], private.seed)
    return part, group_pseudonyms(people, part.rows, ids)


def _write(
    folder: StudyFolder,
    study: Study,
    site: SiteFolder,
    part: Part,
    people: People,
    added: dict[str, list[str]],
    progress: Progress,
    state: str,
) -> None:
    """Publish `private.h5` with the known samples and, after them, those of `part`."""
    digest = sha256(site.private)
    # Those that are read are closed before the new file gets its final name.
    with (
        create_private(site.private, study.id, state) as file,
        open_private(folder.prepared, study.id, "sltool prepare") as prepared,
        open_private(site.private, study.id, "sltool partition") as private,
    ):
        before = private.inputs.shape[0]
        file.attrs["seed"] = str(part.seed)
        file.attrs["names_patients"] = people.names_patients(range(len(people.records)))
        write_versions(file, [*private.versions, Version(sha256=digest, rows=before)])
        file["labels"] = np.concatenate([private.labels, prepared.labels[part.rows]])
        for name, values in added.items():
            write_text_column(file, name, [*private.text(name), *values])
        total = before + len(part.rows)
        target = part_of(site.private)
        with Inputs.make(file, target, private.inputs, total) as inputs:
            row = 0
            for batch in private.batches(0, before):
                for sample in batch:
                    inputs.write(row, sample)
                    row += 1
            row_bytes = prepared.inputs.nbytes // len(prepared.inputs)
            scatter(prepared, [part], [inputs.after(before, row_bytes)], progress)
