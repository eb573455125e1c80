"""`client-encode --for prediction`: shards of new cases without labels, which the server predicts.

Cases have pseudonyms of their own, in `sites/SITE/prediction`, and never enter training.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sltool.coordinator.create import make_dataset
from sltool.datasets.base import Refused, Scan
from sltool.datasets.images import ImageFiles
from sltool.errors import BadDataError
from sltool.files import early_writeback, part_of, remove, write_csv, write_json
from sltool.progress import Progress
from sltool.shard.manifest import PREDICTION, Content
from sltool.site import log
from sltool.site.backend import encoder_for, open_layer
from sltool.site.check_scan import InputCheck, check_scan
from sltool.site.columns import local_columns
from sltool.site.encode import EncodingResult, ShardSeries, checked_shape, new_record
from sltool.site.enrol import site_key
from sltool.site.fingerprint import fingerprint
from sltool.site.grow import content_digests
from sltool.site.outbox import batches_of, is_complete, shipped_names, with_batches
from sltool.site.partition import People, group_pseudonyms, random_ids, secret_permutation
from sltool.site.prepare import WRITEBACK_BYTES, check_unreadable, write_inputs, write_refused
from sltool.site.private_file import PrivateFile, create_private, open_private, write_text_column
from sltool.site.stage_records import EncodedRecord, read_record
from sltool.site.withdrawals import CASE_COLUMNS, Withdrawals, describe_withdrawn, read_people
from sltool.study.layout import SiteFolder, StudyFolder
from sltool.study.schema import Study
from sltool.wording import plural

if TYPE_CHECKING:
    import torch

COMMAND = "sltool client-encode --for prediction"


def encode_cases(
    folder: StudyFolder,
    study: Study,
    site_name: str,
    source: Path,
    progress: Progress,
    device: torch.device | None,
    workers: int,
    shard_bytes: int,
    force: bool,
) -> EncodingResult:
    """Write shards of the cases in `source` to `outbox/SITE`; the result counts these alone.

    A case that was encoded before, with the same content of the same patient, is left out, unless
    forced. So are patients who withdrew.

    Args:
        source: in the dataset's layout, without labels (see `Dataset.cases`).
        device: None: without torch.
        workers: processes that decode images.

    Raises:
        StageOrderError: the site has no key.
        StudyMismatchError: the site's key is not the one in study.yaml.
        BadDataError: the source has no usable case.
    """
    started = time.monotonic()
    study.check_sites([site_name])
    site = folder.site(site_name)
    key = site_key(site, study)
    dataset = make_dataset(study)
    dataset.local_columns = local_columns(folder, dataset)
    source = dataset.need_source(source)
    digest = study.encoding_digest(folder.privacy_layer)
    state = {
        "encoding": digest,
        "source": fingerprint(source, folder.own).digest,
        **({"columns": dict(dataset.local_columns)} if dataset.local_columns else {}),
    }
    record = read_record(site.encoded_cases, EncodedRecord) or new_record({})
    if not force and any(
        batch.get("state") == state and is_complete(site, batch["shards"])
        for batch in batches_of(record)
    ):
        return EncodingResult(site_name, 0, 0, 0, time.monotonic() - started, True, None)
    layer = open_layer(folder, study, device)
    content = Content.from_study(study, digest, checked_shape(folder, study, layer))
    scan = check_scan(dataset.cases(source), study.dataset.name, study.samples)
    try:
        people = _decode(folder, study, site, _shuffled(scan), source, progress, workers)
        with open_private(site.case_inputs, study.id, COMMAND) as cases:
            known = set() if force else _known(site, record)
            contents = _contents(cases, people, digest, progress)
            new = np.array([name not in known for name in contents], np.bool_)
            encoder = encoder_for(study, layer, device, seed=0)
            series = ShardSeries(site, content, key, shard_bytes, record, (PREDICTION,))
            _clear_leftovers(site, record)
            before = record
            if new.any():
                with progress.bar(f"encode {site_name}", len(new)) as advance:
                    record = series.write(cases, cases.labels, new, encoder, record, advance)
            _write_people(site, before, record, cases, people, contents, new)
    finally:
        remove(site.case_inputs)
    if not new.all():
        cases_before = plural(int((~new).sum()), "case was", "cases were")
        progress.note(f"{cases_before} encoded before, and left out")
    return _finish(site, before, record, state, started)


def _finish(
    site: SiteFolder,
    before: EncodedRecord,
    record: EncodedRecord,
    state: dict[str, Any],
    started: float,
) -> EncodingResult:
    """Write the record, after everything that it lists."""
    if record is before:
        return EncodingResult(site.name, 0, 0, 0, time.monotonic() - started, True, None)
    *earlier, last = batches_of(record)
    record = with_batches(record, [*earlier, {**last, "state": state}])
    log.append(
        site,
        "encoded-cases",
        encoding=state["encoding"],
        samples=last["samples"],
        shards={name: record["digests"][name] for name in last["shards"]},
    )
    write_json(site.encoded_cases, {**record, "state": state})
    size = sum((site.outbox / name).stat().st_size for name in last["shards"])
    samples, shards = last["samples"], len(last["shards"])
    seconds = time.monotonic() - started
    return EncodingResult(site.name, samples, shards, size, seconds, False, None, samples, shards)


def _shuffled(scan: Scan) -> Scan:
    """The scan in an order that tells nothing of the order of admission."""
    order = secret_permutation(np.arange(len(scan))).tolist()
    inputs = scan.inputs

    def column(values: Sequence[str] | None) -> list[str] | None:
        return None if values is None else [values[row] for row in order]

    if isinstance(inputs, np.ndarray):
        chosen = inputs[order]
    elif isinstance(inputs, ImageFiles):
        chosen = replace(inputs, paths=[inputs.paths[row] for row in order])
    else:
        load = inputs

        def chosen(row: int) -> NDArray[np.generic]:
            return load(order[row])

    return replace(
        scan,
        inputs=chosen,
        records=[scan.records[row] for row in order],
        groups=[scan.groups[row] for row in order],
        examinations=column(scan.examinations),
    )


def _decode(
    folder: StudyFolder,
    study: Study,
    site: SiteFolder,
    scan: Scan,
    source: Path,
    progress: Progress,
    workers: int,
) -> People:
    """Write the usable cases to `cases.h5`, in the shape of `private.h5`; returns their people."""
    allowed = Withdrawals.read(folder).allowed(scan.records, scan.groups)
    refused = list(scan.refused)
    check = InputCheck(study.dataset.name, study.samples.shape)
    with (
        create_private(site.case_inputs, study.id, "") as file,
        early_writeback(part_of(site.case_inputs), WRITEBACK_BYTES) as written,
    ):
        rows = write_inputs(file, scan, allowed, check, refused, progress, workers, written)
        check_unreadable(len(refused) - len(scan.refused), len(scan), refused)
        write_refused(site.refused_cases, refused)
        if not rows:
            raise BadDataError(
                f"no usable case was found; {len(refused)} were refused",
                where=source,
                expected="cases in the layout of the study's dataset, with or without labels",
                hint=_first(refused),
            )
        examinations = scan.examinations or [""] * len(scan)
        columns = (scan.records, scan.groups, examinations)
        people = People(*([column[row] for row in rows] for column in columns))
        file["labels"] = scan.labels[rows]
        write_text_column(file, "split", [PREDICTION] * len(rows))
        write_text_column(file, "pseudonyms", random_ids(len(rows)))
        groups = group_pseudonyms(people, np.arange(len(rows)))
        write_text_column(file, "group_pseudonyms", groups)
    if refused:
        progress.note(
            f"{plural(len(refused), 'case was', 'cases were')} refused: see {site.refused_cases}"
        )
    if not allowed.all():
        progress.note(f"{describe_withdrawn(int((~allowed).sum()))} were left out")
    return people


def _first(refused: list[Refused]) -> str:
    return "; ".join(f"{sample.record}: {sample.reason}" for sample in refused[:3])


def _known(site: SiteFolder, record: EncodedRecord) -> set[str]:
    """The contents of the cases in the recorded shards."""
    rows = read_people(site.case_pseudonyms, CASE_COLUMNS)
    return {row["content"] for row in rows if row["shard"] in record["shards"]}


def _contents(cases: PrivateFile, people: People, encoding: str, progress: Progress) -> list[str]:
    """What identifies a case: the encoding, its content and its patient, if named.

    Of several cases with the same content each gets a count, so that none is lost.
    """
    seen: Counter[str] = Counter()
    names = []
    digests = content_digests(cases, "recognise", progress)
    for digest, record, patient in zip(digests, people.records, people.groups, strict=True):
        name = f"{encoding[:16]} {digest.hex()} {'' if patient == record else patient}"
        seen[name] += 1
        names.append(f"{name} {seen[name]}")
    return names


def _clear_leftovers(site: SiteFolder, record: EncodedRecord) -> None:
    """Remove shards of an interrupted encoding."""
    for path in site.outbox.glob(f"{site.name}-{PREDICTION}-*.h5*"):
        if path.name not in record["shards"]:
            remove(path)


def _write_people(
    site: SiteFolder,
    before: EncodedRecord,
    record: EncodedRecord,
    cases: PrivateFile,
    people: People,
    contents: list[str],
    new: NDArray[np.bool_],
) -> None:
    """Add the new cases to the table that maps pseudonyms to patients."""
    # Cases of shards that never left have no further use.
    lasting = {*before["shards"], *shipped_names(site)}
    kept = [
        row for row in read_people(site.case_pseudonyms, CASE_COLUMNS) if row["shard"] in lasting
    ]
    shards = record["shards"][len(before["shards"]) :]
    columns = (
        cases.text("pseudonyms"),
        cases.text("group_pseudonyms"),
        people.records,
        people.groups,
        people.examinations,
        contents,
    )
    added = []
    for row in np.flatnonzero(new).tolist():
        pseudonym, group, record_name, patient, examination, content = (c[row] for c in columns)
        values = (pseudonym, group, record_name, patient, examination, shards[0], content)
        added.append(dict(zip(CASE_COLUMNS, values, strict=True)))
    if added:
        write_csv(site.case_pseudonyms, [*kept, *added], CASE_COLUMNS)
