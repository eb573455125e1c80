"""`prepare`: a source's samples, decoded and of one shape, in `prepared.h5`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypedDict

from sltool.datasets.base import Dataset, Loader, Refused, Scan, UnreadableSampleError
from sltool.datasets.images import ImageFiles, decode_batch
from sltool.errors import BadDataError
from sltool.files import early_writeback, part_of, remove, write_csv
from sltool.progress import Advance, Progress
from sltool.site.check_scan import InputCheck, check_scan
from sltool.site.counts import count_parts
from sltool.site.fingerprint import Fingerprint
from sltool.site.preview import preview
from sltool.site.private_file import create_private, open_private, write_text_column
from sltool.site.withdrawals import Withdrawals, told
from sltool.study.layout import StudyFolder
from sltool.study.schema import Labels, Study

# Samples in a job: few, so that no worker has much left to do when the others are done.
BATCH = 16
CHUNK_BYTES = 2**20
WRITEBACK_BYTES = 2**26
# Below this many files, starting worker processes costs more than it saves.
PARALLEL_FROM = 500
UNREADABLE_LIMIT = 0.01


@dataclass(frozen=True)
class PreparationResult:
    """What `prepare` did; `again` where the same source had been prepared before.

    `counts` are the samples of each class, `parts` the rows of `sltool.site.counts`.
    """

    dataset: str
    samples: int
    counts: dict[str, int]
    parts: list[dict[str, str | int]]
    refused: list[Refused]
    notes: list[str]
    again: bool = False


class PreparedRecord(TypedDict):
    """`PreparationResult` as `prepared.h5` keeps it."""

    dataset: str
    samples: int
    counts: dict[str, int]
    parts: list[dict[str, str | int]]
    refused: list[dict[str, str]]
    notes: list[str]


# A batch: the arrays (n, *shape), their numbers in the scan, and what was unreadable.
Batch = tuple[NDArray[Any], list[int], list[Refused]]


def prepare(
    folder: StudyFolder,
    study: Study,
    dataset: Dataset,
    source: Path | None,
    progress: Progress,
    workers: int,
    state: str,
    looked: Fingerprint,
) -> PreparationResult:
    """Write `prepared.h5` and, if samples were refused, `refused.csv`.

    Patients who withdrew are left out.

    Args:
        looked: what the source looked like before it was read; kept in `prepared.h5`.

    Raises:
        BadDataError: nothing usable, too many unreadable files, or the dataset gives what `Scan`
            does not allow.
    """
    scan = check_scan(dataset.scan(source), study.dataset.name, study.samples)
    check = InputCheck(study.dataset.name, study.samples.shape)
    if len(scan) == 0:
        raise BadDataError(
            f"no usable sample was found; {len(scan.refused)} were refused",
            where=source or "",
            expected=dataset.source_help,
            hint=_first_reasons(scan.refused),
        )
    for line in preview(scan, study, folder.study_file) if scan.understood else ():
        progress.note(line)
    keep = Withdrawals.read(folder).keeps(scan.records, scan.groups)
    if not keep.any():
        raise BadDataError("all samples are of patients who withdrew", where=source or "")
    notes = [] if keep.all() else [f"{told(int((~keep).sum()))} were left out"]
    refused = list(scan.refused)
    with (
        create_private(folder.prepared, study.id, state) as file,
        early_writeback(part_of(folder.prepared), WRITEBACK_BYTES) as wrote,
    ):
        kept = _write_inputs(file, scan, keep, check, refused, progress, workers, wrote)
        _check_unreadable(len(refused) - len(scan.refused), len(scan), refused)
        counts = _write_columns(file, scan, kept, study.samples.labels)
        parts = count_parts(scan, kept, study.samples.labels)
        notes = [*scan.notes, *_absent(counts), *notes]
        result = PreparationResult(study.dataset.name, len(kept), counts, parts, refused, notes)
        file.attrs["result"] = json.dumps(asdict(result))
        file["source"] = np.frombuffer(looked.to_json(), np.uint8)
    _write_refused(folder.refused, refused)
    return result


def prepared_source(folder: StudyFolder, study: Study) -> Fingerprint | None:
    """What the source of `prepared.h5` looked like; None where there is none."""
    if not folder.prepared.is_file():
        return None
    with open_private(folder.prepared, study.id, "sltool prepare") as prepared:
        if "source" not in prepared.file:
            return None
        return Fingerprint.from_json(prepared.document("source", dict[str, list[int]]))


def prepared_before(folder: StudyFolder, study: Study, state: str) -> PreparationResult | None:
    """The result of an earlier `prepare` with this state, if there is one."""
    if not folder.prepared.is_file():
        return None
    with open_private(folder.prepared, study.id, "sltool prepare") as prepared:
        if prepared.state != state:
            return None
        result = prepared.document("result", PreparedRecord)
    return PreparationResult(
        dataset=result["dataset"],
        samples=result["samples"],
        counts=result["counts"],
        parts=result["parts"],
        refused=[Refused(one["record"], one["reason"]) for one in result["refused"]],
        notes=result["notes"],
        again=True,
    )


def _write_inputs(
    file: h5py.File,
    scan: Scan,
    keep: NDArray[np.bool_],
    check: InputCheck,
    refused: list[Refused],
    progress: Progress,
    workers: int,
    wrote: Advance,
) -> list[int]:
    """Stream the arrays to the file; returns the numbers of the samples that were readable.

    Args:
        keep: (N,) which samples may be written.
        wrote: is told the bytes that were written.
    """
    inputs: h5py.Dataset | None = None
    kept: list[int] = []
    with progress.bar("prepare", len(scan)) as advance:
        for arrays, numbers, unreadable in _batches(scan, check, workers):
            check.check(arrays, numbers)
            advance(len(numbers) + len(unreadable))
            wanted = keep[numbers]
            if not wanted.all():
                arrays, numbers = arrays[wanted], np.array(numbers)[wanted].tolist()
            if numbers:
                shape = arrays.shape[1:]
                if inputs is None:
                    inputs = file.create_dataset(
                        "inputs",
                        shape=(0, *shape),
                        maxshape=(None, *shape),
                        dtype=arrays.dtype,
                        chunks=(max(1, CHUNK_BYTES // arrays[0].nbytes), *shape),
                    )
                inputs.resize(len(kept) + len(numbers), axis=0)
                inputs[len(kept) :] = arrays
                wrote(arrays.nbytes)
            kept += numbers
            refused += unreadable
    return kept


def _batches(scan: Scan, check: InputCheck, workers: int) -> Iterator[Batch]:
    """The scan's samples in order, at most a few batches in memory at a time."""
    spans = [range(start, min(start + BATCH, len(scan))) for start in range(0, len(scan), BATCH)]
    if isinstance(scan.inputs, np.ndarray):
        for span in spans:
            yield scan.inputs[span.start : span.stop], list(span), []
    elif isinstance(scan.inputs, ImageFiles):
        paths = list(scan.inputs.paths)
        decode = partial(decode_batch, decode=scan.inputs.decode)
        jobs = [paths[span.start : span.stop] for span in spans]
        with _processes(workers if len(scan) >= PARALLEL_FROM else 1) as pool:
            decoded = _in_order(pool, decode, jobs, workers)
            for span, (arrays, kept, reasons) in zip(spans, decoded, strict=True):
                records = scan.records[span.start : span.stop]
                told = zip(records, reasons, strict=True)
                unreadable = [Refused(record, reason) for record, reason in told if reason]
                yield arrays, [span.start + number for number in kept], unreadable
    else:
        load = partial(_load_span, loader=scan.inputs, records=scan.records, check=check)
        with ThreadPoolExecutor(workers) as threads:
            yield from _in_order(threads, load, spans, workers)


@contextmanager
def _processes(workers: int) -> Iterator[Executor]:
    if workers == 1:
        with ThreadPoolExecutor(1) as pool:
            yield pool
    else:
        # Not forked from here: torch's threads may hold locks in this process. The fork server is
        # a clean process, and imports what the workers need once for all of them.
        server = "forkserver" in get_all_start_methods()
        context = get_context("forkserver" if server else "spawn")
        if server:
            context.set_forkserver_preload(["sltool.datasets.images", "PIL.PngImagePlugin"])
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            yield pool


def _in_order(pool: Executor, work: Any, jobs: list[Any], workers: int) -> Iterator[Any]:
    """`map` with a bounded number of jobs under way."""
    waiting = iter(jobs)
    under_way = [pool.submit(work, job) for job in islice(waiting, 2 * workers)]
    while under_way:
        yield under_way.pop(0).result()
        under_way += [pool.submit(work, job) for job in islice(waiting, 1)]


def _load_span(span: range, loader: Loader, records: Sequence[str], check: InputCheck) -> Batch:
    arrays, kept, refused = [], [], []
    for number in span:
        try:
            arrays.append(loader(number))
            kept.append(number)
        except UnreadableSampleError as error:
            refused.append(Refused(records[number], str(error)))
    return check.stacked(arrays, kept), kept, refused


def _check_unreadable(unreadable: int, total: int, refused: list[Refused]) -> None:
    if unreadable > max(1, UNREADABLE_LIMIT * total):
        raise BadDataError(
            f"{unreadable} of {total} files cannot be read",
            expected=f"at most {UNREADABLE_LIMIT:.0%}",
            hint=_first_reasons(refused[-unreadable:]),
        )


def _first_reasons(refused: list[Refused]) -> str:
    return "look at " + "; ".join(f"{one.record}: {one.reason}" for one in refused[:3])


def _write_columns(file: h5py.File, scan: Scan, kept: list[int], labels: Labels) -> dict[str, int]:
    """Write the columns beside `inputs`; returns the count of each class."""
    values = scan.labels[kept]
    file["labels"] = values
    write_text_column(file, "records", [scan.records[number] for number in kept])
    write_text_column(file, "groups", [scan.groups[number] for number in kept])
    for name, column in (("examinations", scan.examinations), ("official", scan.official)):
        write_text_column(file, name, [column[number] if column else "" for number in kept])
    if scan.sites:
        write_text_column(file, "sites", [scan.sites[number] for number in kept])
    if labels.kind == "regression":
        return {}
    found = Counter(values.tolist())
    return {name: found[number] for number, name in enumerate(labels.classes)}


def _absent(counts: dict[str, int]) -> list[str]:
    """A note on the classes without a sample: right for some hospitals, and may be a slip."""
    absent = " ".join(f"'{name}'" for name, count in counts.items() if count == 0)
    return [f"no sample of the class {absent}: right if this hospital has none"] if absent else []


def _write_refused(path: Path, refused: list[Refused]) -> None:
    if not refused:
        remove(path)
        return
    write_csv(path, map(asdict, refused), ("record", "reason"))
