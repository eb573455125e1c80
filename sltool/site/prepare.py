"""`prepare`: decode a source's samples to a common shape and write them to `prepared.h5`."""

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
from sltool.files import early_writeback, part_of, remove, write_csv, write_json
from sltool.machine import sheltered_from_ctrl_c
from sltool.progress import Advance, Progress
from sltool.site.check_scan import InputCheck, check_scan
from sltool.site.counts import count_parts
from sltool.site.fingerprint import Fingerprint
from sltool.site.preview import preview
from sltool.site.private_file import (
    create_private,
    open_private,
    write_named_columns,
    write_text_column,
)
from sltool.site.withdrawals import Withdrawals, describe_withdrawn
from sltool.study.layout import StudyFolder
from sltool.study.schema import Labels, Study

# Samples in a job: few, so that all workers finish at about the same time.
BATCH = 16
CHUNK_BYTES = 2**20
WRITEBACK_BYTES = 2**26
# Below this many files, starting worker processes costs more than it saves.
PARALLEL_FROM = 500
# Windows waits for no more processes at a time.
MOST_SPAWNED = 61
UNREADABLE_LIMIT = 0.01


@dataclass(frozen=True)
class PreparationResult:
    """What `prepare` did; `again` if the same source had been prepared before.

    `counts` maps each class to its number of samples; `parts` holds the rows of
    `sltool.site.counts`.
    """

    dataset: str
    samples: int
    counts: dict[str, int]
    parts: list[dict[str, str | int]]
    refused: list[Refused]
    notes: list[str]
    again: bool = False


class PreparedRecord(TypedDict):
    """`PreparationResult` as stored in `prepared.h5`."""

    dataset: str
    samples: int
    counts: dict[str, int]
    parts: list[dict[str, str | int]]
    refused: list[dict[str, str]]
    notes: list[str]


# A batch: the arrays (n, *shape), their rows in the scan, and the unreadable samples.
Batch = tuple[NDArray[Any], list[int], list[Refused]]


def prepare(
    folder: StudyFolder,
    study: Study,
    dataset: Dataset,
    source: Path | None,
    progress: Progress,
    workers: int,
    state: str,
    source_fingerprint: Fingerprint,
) -> PreparationResult:
    """Write `prepared.h5` and, if samples were refused, `refused.csv`.

    Patients who withdrew are left out.

    Args:
        state: digest of the settings and the source; stored to recognise finished work.
        source_fingerprint: taken before the source was read; stored in `prepared.h5`.

    Raises:
        BadDataError: there is no usable sample, too many files are unreadable, or the dataset
            returns something that `Scan` does not allow.
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
    allowed = Withdrawals.read(folder).allowed(scan.records, scan.groups)
    if not allowed.any():
        raise BadDataError("all samples belong to patients who withdrew", where=source or "")
    withdrawn_count = int((~allowed).sum())
    notes = [f"{describe_withdrawn(withdrawn_count)} were left out"] if withdrawn_count else []
    refused = list(scan.refused)
    write_json(folder.source_columns, list(scan.columns))
    with (
        create_private(folder.prepared, study.id, state) as file,
        early_writeback(part_of(folder.prepared), WRITEBACK_BYTES) as report_written,
    ):
        rows = write_inputs(file, scan, allowed, check, refused, progress, workers, report_written)
        check_unreadable(len(refused) - len(scan.refused), len(scan), refused)
        counts = _write_columns(file, scan, rows, study.samples.labels)
        parts = count_parts(scan, rows, study.samples.labels)
        notes = [*scan.notes, *_absent_class_notes(counts), *notes]
        result = PreparationResult(study.dataset.name, len(rows), counts, parts, refused, notes)
        file.attrs["result"] = json.dumps(asdict(result))
        file["source"] = np.frombuffer(source_fingerprint.to_json(), np.uint8)
    write_refused(folder.refused, refused)
    return result


def prepared_source(folder: StudyFolder, study: Study) -> Fingerprint | None:
    """The fingerprint of the source of `prepared.h5`; None if there is none."""
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
        refused=[Refused(entry["record"], entry["reason"]) for entry in result["refused"]],
        notes=result["notes"],
        again=True,
    )


def write_inputs(
    file: h5py.File,
    scan: Scan,
    allowed: NDArray[np.bool_],
    check: InputCheck,
    refused: list[Refused],
    progress: Progress,
    workers: int,
    report_written: Advance,
) -> list[int]:
    """Stream the arrays to the file; returns the rows of the scan that were written.

    Args:
        allowed: (N,) which samples may be written.
        refused: unreadable samples are appended.
        report_written: called with the number of bytes that were written.
    """
    inputs: h5py.Dataset | None = None
    written: list[int] = []
    with progress.bar("prepare", len(scan)) as advance:
        for arrays, rows, unreadable in decoded_batches(scan, check, workers):
            check.check(arrays, rows)
            advance(len(rows) + len(unreadable))
            selected = allowed[rows]
            if not selected.all():
                arrays, rows = arrays[selected], np.array(rows)[selected].tolist()
            if rows:
                if inputs is None:
                    inputs = _create_inputs(file, arrays)
                inputs.resize(len(written) + len(rows), axis=0)
                inputs[len(written) :] = arrays
                report_written(arrays.nbytes)
            written += rows
            refused += unreadable
    return written


def _create_inputs(file: h5py.File, arrays: NDArray[Any]) -> h5py.Dataset:
    """An empty, resizable dataset for samples like `arrays` (n, *shape)."""
    shape = arrays.shape[1:]
    return file.create_dataset(
        "inputs",
        shape=(0, *shape),
        maxshape=(None, *shape),
        dtype=arrays.dtype,
        chunks=(max(1, CHUNK_BYTES // arrays[0].nbytes), *shape),
    )


def decoded_batches(scan: Scan, check: InputCheck, workers: int) -> Iterator[Batch]:
    """The scan's samples in order, at most a few batches in memory at a time."""
    spans = [range(start, min(start + BATCH, len(scan))) for start in range(0, len(scan), BATCH)]
    if isinstance(scan.inputs, np.ndarray):
        for span in spans:
            yield scan.inputs[span.start : span.stop], list(span), []
    elif isinstance(scan.inputs, ImageFiles):
        paths = list(scan.inputs.paths)
        decode = partial(decode_batch, decode=scan.inputs.decode)
        jobs = [paths[span.start : span.stop] for span in spans]
        with _process_pool(workers if len(scan) >= PARALLEL_FROM else 1) as pool:
            decoded = _in_order(pool, decode, jobs, workers)
            for span, (arrays, readable, reasons) in zip(spans, decoded, strict=True):
                records = scan.records[span.start : span.stop]
                outcomes = zip(records, reasons, strict=True)
                unreadable = [Refused(record, reason) for record, reason in outcomes if reason]
                yield arrays, [span.start + index for index in readable], unreadable
    else:
        load = partial(_load_span, loader=scan.inputs, records=scan.records, check=check)
        with ThreadPoolExecutor(workers) as threads:
            yield from _in_order(threads, load, spans, workers)


@contextmanager
def _process_pool(workers: int) -> Iterator[Executor]:
    if workers == 1:
        with ThreadPoolExecutor(1) as pool:
            yield pool
    else:
        # A direct fork could copy locks that torch's threads hold. The fork server has no other
        # threads, and imports what the workers need once for all of them.
        server = start_fork_server()
        workers = workers if server else min(workers, MOST_SPAWNED)
        context = get_context("forkserver" if server else "spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            yield pool


def start_fork_server() -> bool:
    """Start the process that the decoding processes are copies of; False if the system has none.

    Its imports take a while, so that it is started early where a large import comes first.
    """
    if "forkserver" not in get_all_start_methods():
        return False
    from multiprocessing import forkserver

    forkserver.set_forkserver_preload(["sltool.datasets.images", "PIL.PngImagePlugin"])
    with sheltered_from_ctrl_c():
        forkserver.ensure_running()
    return True


def _in_order(pool: Executor, work: Any, jobs: list[Any], workers: int) -> Iterator[Any]:
    """Like `map`, but with a bounded number of pending jobs."""
    waiting = iter(jobs)
    with sheltered_from_ctrl_c():  # The first jobs start the workers.
        pending = [pool.submit(work, job) for job in islice(waiting, 2 * workers)]
    while pending:
        yield pending.pop(0).result()
        pending += [pool.submit(work, job) for job in islice(waiting, 1)]


def _load_span(span: range, loader: Loader, records: Sequence[str], check: InputCheck) -> Batch:
    arrays, rows, refused = [], [], []
    for row in span:
        try:
            arrays.append(loader(row))
            rows.append(row)
        except UnreadableSampleError as error:
            refused.append(Refused(records[row], str(error)))
    return check.stacked(arrays, rows), rows, refused


def check_unreadable(unreadable: int, total: int, refused: list[Refused]) -> None:
    if unreadable > max(1, UNREADABLE_LIMIT * total):
        raise BadDataError(
            f"{unreadable} of {total} files cannot be read",
            expected=f"at most {UNREADABLE_LIMIT:.0%}",
            hint=_first_reasons(refused[-unreadable:]),
        )


def _first_reasons(refused: list[Refused]) -> str:
    return "look at " + "; ".join(f"{sample.record}: {sample.reason}" for sample in refused[:3])


def _write_columns(file: h5py.File, scan: Scan, rows: list[int], labels: Labels) -> dict[str, int]:
    """Write all columns but `inputs`; returns the number of samples of each class."""
    values = scan.labels[rows]
    file["labels"] = values
    write_text_column(file, "records", [scan.records[row] for row in rows])
    write_text_column(file, "groups", [scan.groups[row] for row in rows])
    for name, column in (("examinations", scan.examinations), ("official", scan.official)):
        write_text_column(file, name, [column[row] if column else "" for row in rows])
    write_named_columns(
        file, {name: [column[row] for row in rows] for name, column in scan.columns.items()}
    )
    if labels.kind == "regression":
        return {}
    class_counts = Counter(values.tolist())
    return {name: class_counts[index] for index, name in enumerate(labels.classes)}


def _absent_class_notes(counts: dict[str, int]) -> list[str]:
    """A note that names the classes without a sample: correct at some hospitals, else a mistake."""
    absent = " ".join(f"'{name}'" for name, count in counts.items() if count == 0)
    return [f"no sample of the class {absent}: right if this hospital has none"] if absent else []


def write_refused(path: Path, refused: list[Refused]) -> None:
    if not refused:
        remove(path)
        return
    write_csv(path, map(asdict, refused), ("record", "reason"))
