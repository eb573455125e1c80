"""`prepare` in a study's folder: create the study if there is none, then read the source."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sltool.coordinator.create import Scale, fit_training, make_dataset, make_study
from sltool.errors import UsageError
from sltool.files import canonical_json
from sltool.progress import Progress
from sltool.registry import datasets
from sltool.site.columns import local_columns
from sltool.site.fingerprint import Fingerprint, fingerprint
from sltool.site.prepare import (
    PARALLEL_FROM,
    PreparationResult,
    prepare,
    prepared_before,
    prepared_source,
    start_fork_server,
)
from sltool.site.private_file import open_private
from sltool.site.split import expected_training
from sltool.study.layout import StudyFolder
from sltool.study.schema import Study


def prepare_study(
    folder: StudyFolder,
    name: str | None,
    source: Path | None,
    overrides: Sequence[str],
    workers: int,
    seed: int | None,
    force: bool,
    progress: Progress,
    scale: Scale | None = None,
    recipe: str | None = None,
    columns: Sequence[str] = (),
) -> PreparationResult:
    """Make study.yaml and privacy-layer.safetensors if they are missing, then `prepared.h5`.

    Args:
        workers: processes that decode images.
        columns: 'NAME=HEADER': what the source calls a column of the study; kept at the site.

    The other arguments, and what is raised, are those of `make_study`.
    """
    if columns and not folder.study_file.exists():
        raise UsageError(
            "--column maps a table to a study that is there, and this folder has none",
            where=folder.root,
            hint="for a new study, name the headers with --set dataset.headers",
        )
    if name is not None and not folder.study_file.exists():
        kind = datasets.get(name)
        if kind.needs_source:
            kind.need_source(source)
    current = fingerprint(source, folder.own)
    is_new = not folder.study_file.exists()
    if is_new and workers > 1 and len(current.files) >= PARALLEL_FROM:
        start_fork_server()  # Makes its imports while torch is imported here for the new study.
    study, notes = make_study(folder, name, source, overrides, seed, force, progress, scale, recipe)
    dataset = make_dataset(study)
    dataset.local_columns = local_columns(folder, dataset, columns)
    state = _state(study, current, dataset.local_columns)
    done = None if force else prepared_before(folder, study, state)
    if done is None:
        if not force:
            _note_changes(folder, study, current, progress)
        done = prepare(folder, study, dataset, source, progress, workers, state, current)
    if study.recipe.samples is None:
        with open_private(folder.prepared, study.id, "sltool prepare") as prepared:
            official = prepared.text("official")
        fit_training(folder, study, expected_training(official, study.split))
    return replace(done, notes=[*notes, *done.notes])


def _note_changes(
    folder: StudyFolder, study: Study, current: Fingerprint, progress: Progress
) -> None:
    """Report how the source has changed: on the terminal only, since file names are private."""
    before = prepared_source(folder, study)
    changes = current.changes_since(before) if before else ""
    if changes:
        progress.note(f"the source has changed since it was prepared: {changes}; preparing anew")


def _state(study: Study, source_fingerprint: Fingerprint, columns: Mapping[str, str]) -> str:
    made_from: dict[str, Any] = {
        "dataset": study.dataset.model_dump(mode="json"),
        "samples": study.samples.model_dump(mode="json"),
        "source": source_fingerprint.digest,
    }
    if columns:
        made_from["columns"] = dict(columns)
    return hashlib.sha256(canonical_json(made_from)).hexdigest()
