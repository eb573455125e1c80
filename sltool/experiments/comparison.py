"""Runs a comparison: every arm of every cell and seed once, each in its own folder.

    OUT/comparison.json                    the case and its settings
    OUT/source.json                        the source's files, sizes and times: private
    OUT/cells/CELL/seed-0/arms/ARM/        predictions.csv, history.csv, arm.json (written last)
    OUT/cells/CELL/seed-0/records.csv      pseudonym, record and patient of the test samples
    OUT/cells/CELL/seed-0/audit.json       what an attacker gets from the largest site's shards
    OUT/cells/CELL/seed-0/cell.json        counts, digests, settings

An interrupted comparison resumes after the last finished arm; a run that the server was training
resumes from its checkpoint.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NotRequired

import torch
from typing_extensions import TypedDict

from sltool.errors import UsageError
from sltool.experiments.arm_files import (
    FinishedArm,
    finish,
    is_finished,
    read_audit,
    read_finished,
)
from sltool.experiments.arms import check_any_applicable, find_arm, inapplicable
from sltool.experiments.cases import Case
from sltool.experiments.pictures import feature_map_picture
from sltool.experiments.style import need_matplotlib
from sltool.experiments.sweep import Cell, grid
from sltool.experiments.trial import Trial, TrialSettings
from sltool.files import read_csv, read_json, write_csv, write_json, write_text
from sltool.names import check_name
from sltool.progress import DistinctNotes, Progress
from sltool.site.fingerprint import Fingerprint, fingerprint

RECORDS = "records.csv"
AUDIT = "audit.json"
RECORD_COLUMNS = ("pseudonym", "record", "patient")
RERUN_HINT = "run the comparison again with --force, or in another --out"


class CellFacts(TypedDict):
    """The keys of `cell.json` that the runner and the report read."""

    dataset: str
    recipe: NotRequired[str]
    source: str
    settings: list[str]
    ratios: str
    division: NotRequired[str]
    counts: dict[str, dict[str, int]]
    patients: dict[str, int]
    encoding_digest: str
    privacy_layer_digest: str
    labels: dict[str, Any]
    model: dict[str, Any]
    encoding: dict[str, Any]
    training: dict[str, Any]
    notes: list[str]
    left_out: dict[str, str]


@dataclass(frozen=True)
class ComparisonPlan:
    """The arms, cells and seeds that a comparison runs.

    Attributes:
        arms: as returned by `arms.expand`.
        recipe: of the dataset.
        settings: study.yaml keys, 'key=value', overriding those of the recipe.
        seeds: of each cell.
        keep: keep each finished cell's study folder, with its shards and models.
        audit: budget of the audit of each cell; '': none.
    """

    case: Case
    dataset: str
    recipe: str
    source: Path | None
    arms: list[str]
    settings: tuple[str, ...]
    ratios: str
    sweeps: tuple[str, ...]
    seeds: list[int]
    device: torch.device
    workers: int
    keep: bool = False
    audit: Literal["", "quick", "thorough"] = ""

    def cells(self) -> list[Cell]:
        """The grid's cells."""
        return grid(self.sweeps, self.case.layers)

    def setup(self, cell: Cell, seed: int) -> TrialSettings:
        """The settings of one cell at one seed."""
        settings = (*self.settings, *cell.settings(self.case.layers))
        division = cell.division(self.ratios)
        return TrialSettings(self.dataset, self.recipe, self.source, settings, division, seed)


def run_plan(plan: ComparisonPlan, out: Path, force: bool, progress: Progress) -> list[FinishedArm]:
    """Run the unfinished arms, and return all finished ones.

    Raises:
        MissingPackageError: matplotlib is not installed, which the report needs at the end.
        UsageError: `out` has a comparison with other settings, or no arm is applicable.
    """
    need_matplotlib()
    cells = plan.cells()
    _check_compatible(plan, out, force)
    progress = DistinctNotes(progress)
    done: list[FinishedArm] = []
    for cell in cells:
        for seed in plan.seeds:
            done += _run_cell(plan, cell, seed, out, force, progress)
    return done


def _check_compatible(plan: ComparisonPlan, out: Path, force: bool) -> None:
    """Arms, seeds and cells may be added to a comparison; its shared settings may not change."""
    path, source = out / "comparison.json", out / "source.json"
    current_files = fingerprint(plan.source)
    current = {
        "case": plan.case.name,
        "dataset": plan.dataset,
        "source": plan.source.name if plan.source else "bundled",
        "recipe": plan.recipe,
        "settings": list(plan.settings),
        "ratios": plan.ratios,
    }
    # Without a cell, for example after a wrong --source, there are no results to protect.
    if (out / "cells").is_dir() and path.is_file() and not force:
        before = read_json(path, dict[str, Any], "the record of the comparison", RERUN_HINT)
        # The source may have been renamed: its contents are compared below.
        changed = [key for key in current if key != "source" and before.get(key) != current[key]]
        if changed:
            key = changed[0]
            raise UsageError(
                f"the comparison there has the {key} {before.get(key)}, not {current[key]}",
                where=path,
                hint="give another --out, or --force to run it from the start",
            )
        files = read_json(source, dict[str, list[int]], "the record of the source", RERUN_HINT)
        changes = current_files.changes_since(Fingerprint.from_json(files))
        if changes:
            raise UsageError(
                f"the comparison there was made from another source: {changes}",
                where=plan.source or "the data that comes with the dataset",
                expected="the same files, sizes and times as when it was started",
                hint="give another --out, or --force to run it from the start",
            )
    write_json(path, current)
    write_text(source, current_files.to_json().decode("ascii"))


def _run_cell(
    plan: ComparisonPlan, cell: Cell, seed: int, out: Path, force: bool, progress: Progress
) -> list[FinishedArm]:
    root = out / "cells" / cell.name / f"seed-{seed}"
    trial = Trial(root, plan.setup(cell, seed), plan.device, plan.workers, progress)
    if force:
        trial.clear()
    todo = [arm for arm in plan.arms if not is_finished(arm_folder(root, arm))]
    skipped: dict[str, str] = {}
    facts_file = root / "cell.json"
    if facts_file.is_file():
        skipped = _read_facts(facts_file)["left_out"]
    todo = [arm for arm in todo if arm not in skipped]
    if todo:
        where = f"{cell.name}, " if cell.point else ""
        progress.note(f"{where}seed {seed}: {', '.join(todo)}")
        skipped |= {arm: why for arm in todo if (why := inapplicable(arm, trial.study))}
        check_any_applicable(plan.arms, skipped)
        _add_records(root / RECORDS, trial)
        write_json(facts_file, {**trial.facts(), "sweep": cell.point, "left_out": skipped})
        if not any(out.glob("figures/feature-maps.png")):
            feature_map_picture(trial, out / "figures")
        for arm in todo:
            if arm not in skipped:
                _run_arm(arm, trial, arm_folder(root, arm))
    audit = root / AUDIT
    if plan.audit and not audit.is_file():
        progress.note(f"{cell.name}, seed {seed}: audit")
        write_json(audit, trial.audit(plan.audit))
    if not plan.keep:
        trial.tidy()
    facts = _read_facts(facts_file)
    audited = read_audit(audit) if audit.is_file() else None
    return [
        read_finished(arm_folder(root, arm), arm, cell.point, seed, facts, root / RECORDS, audited)
        for arm in plan.arms
        if arm not in skipped
    ]


def arm_folder(root: Path, arm: str) -> Path:
    """The folder of an arm; not every file system allows a colon in a name."""
    return root / "arms" / check_name("arm", arm.replace(":", "-"))


def _add_records(path: Path, trial: Trial) -> None:
    """Add the trial's records: a study made again for another arm has new pseudonyms."""
    known = read_csv(path, RECORD_COLUMNS, RERUN_HINT) if path.is_file() else []
    rows = {row["pseudonym"]: row for row in [*known, *trial.test_records()]}
    write_csv(path, rows.values(), RECORD_COLUMNS)


def _run_arm(arm: str, trial: Trial, folder: Path) -> None:
    # The data is shared by the arms, so making it does not count as any arm's time.
    _ = trial.feature_maps if arm.startswith(("multi", "single")) else trial.raw
    started = time.monotonic()
    outcome = find_arm(arm)(trial, folder)
    finish(folder, outcome, time.monotonic() - started)


def _read_facts(path: Path) -> dict[str, Any]:
    return dict(read_json(path, CellFacts, "the record of a cell", RERUN_HINT))


def plan_document(plan: ComparisonPlan) -> dict[str, Any]:
    """The plan for `results.json`."""
    document = asdict(plan)
    document["case"] = plan.case.name
    document["source"] = plan.source.name if plan.source else "bundled"
    document["device"] = str(plan.device)
    for key in ("workers", "keep"):
        del document[key]
    return document
