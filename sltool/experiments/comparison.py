"""Running a comparison: every arm of every cell and seed, each once, in folders of its own.

    OUT/comparison.json                    the case and its settings
    OUT/source.json                        what the source looked like: private
    OUT/cells/CELL/seed-0/arms/ARM/        predictions.csv, history.csv, arm.json (written last)
    OUT/cells/CELL/seed-0/records.csv      pseudonym, record and patient of the test samples
    OUT/cells/CELL/seed-0/cell.json        counts, digests, settings

A comparison that was stopped goes on behind the last finished arm; a run that the server was
training goes on from its checkpoint.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from typing_extensions import TypedDict

from sltool.errors import UsageError
from sltool.experiments.arm_files import Finished, finish, is_finished, read_finished
from sltool.experiments.arms import check_some, find, inapplicable
from sltool.experiments.cases import Case
from sltool.experiments.pictures import feature_map_picture
from sltool.experiments.sweep import Cell, grid
from sltool.experiments.trial import Trial, TrialSettings
from sltool.files import read_csv, read_json, write_csv, write_json, write_text
from sltool.names import check_name
from sltool.progress import Once, Progress
from sltool.site.fingerprint import Fingerprint, fingerprint

RECORDS = "records.csv"
# Its columns.
WHO = ("pseudonym", "record", "patient")
DAMAGED = "run the comparison again with --force, or in another --out"


class CellFacts(TypedDict):
    """What the runner and the report read in `cell.json`."""

    dataset: str
    source: str
    settings: list[str]
    ratios: str
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
    """What a comparison runs.

    Attributes:
        arms: as `arms.expand` gives them.
        settings: study.yaml keys, 'key=value', over those of the case.
        seeds: of each cell.
        keep: leave each cell's study folder, with its shards and models, when it is done.
    """

    case: Case
    dataset: str
    source: Path | None
    arms: list[str]
    settings: tuple[str, ...]
    ratios: str
    sweeps: tuple[str, ...]
    seeds: list[int]
    device: torch.device
    workers: int
    keep: bool = False

    def cells(self) -> list[Cell]:
        """The grid's cells."""
        return grid(self.sweeps)

    def setup(self, cell: Cell, seed: int) -> TrialSettings:
        """What one cell compares."""
        settings = (*self.case.settings, *self.settings, *cell.settings())
        return TrialSettings(self.dataset, self.source, settings, cell.ratios(self.ratios), seed)


def run_plan(plan: ComparisonPlan, out: Path, force: bool, progress: Progress) -> list[Finished]:
    """Run what is not finished yet, and return all that is.

    Raises:
        UsageError: `out` holds a comparison with other settings, or no arm fits.
    """
    cells = plan.cells()
    _check_compatible(plan, out, force)
    progress = Once(progress)
    done: list[Finished] = []
    for cell in cells:
        for seed in plan.seeds:
            done += _run_cell(plan, cell, seed, out, force, progress)
    return done


def _check_compatible(plan: ComparisonPlan, out: Path, force: bool) -> None:
    """Arms, seeds and cells may be added to a comparison; what they share may not change."""
    path, source = out / "comparison.json", out / "source.json"
    looked = fingerprint(plan.source)
    now = {
        "case": plan.case.name,
        "dataset": plan.dataset,
        "source": plan.source.name if plan.source else "bundled",
        "settings": [*plan.case.settings, *plan.settings],
        "ratios": plan.ratios,
    }
    # Before the first cell, as after a wrong --source, there is nothing to go on with.
    if (out / "cells").is_dir() and path.is_file() and not force:
        before = read_json(path, dict[str, Any], "the record of the comparison", DAMAGED)
        # The source may be called otherwise today: what counts is what lies in it.
        changed = [key for key in now if key != "source" and before.get(key) != now[key]]
        if changed:
            key = changed[0]
            raise UsageError(
                f"the comparison there has the {key} {before.get(key)}, not {now[key]}",
                where=path,
                hint="give another --out, or --force to run it anew",
            )
        files = read_json(source, dict[str, list[int]], "the record of the source", DAMAGED)
        changes = looked.changes_since(Fingerprint.from_json(files))
        if changes:
            raise UsageError(
                f"the comparison there was made from another source: {changes}",
                where=plan.source or "the data that comes with the dataset",
                expected="the files that it was begun with, with their sizes and times",
                hint="give another --out, or --force to run it anew",
            )
    write_json(path, now)
    write_text(source, looked.to_json().decode("ascii"))


def _run_cell(
    plan: ComparisonPlan, cell: Cell, seed: int, out: Path, force: bool, progress: Progress
) -> list[Finished]:
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
        check_some(plan.arms, skipped)
        _add_records(root / RECORDS, trial)
        write_json(facts_file, {**trial.facts(), "sweep": cell.point, "left_out": skipped})
        if not any(out.glob("figures/feature-maps.png")):
            feature_map_picture(trial, out / "figures")
        for arm in todo:
            if arm not in skipped:
                _run_arm(arm, trial, arm_folder(root, arm))
    if not plan.keep:
        trial.tidy()
    facts = _read_facts(facts_file)
    return [
        read_finished(arm_folder(root, arm), arm, cell.point, seed, facts, root / RECORDS)
        for arm in plan.arms
        if arm not in skipped
    ]


def arm_folder(root: Path, arm: str) -> Path:
    """Where an arm's tables lie; a colon does not stand in every file system's names."""
    return root / "arms" / check_name("arm", arm.replace(":", "-"))


def _add_records(path: Path, trial: Trial) -> None:
    """A cell that is made again for one more arm has new pseudonyms; the old ones stay known."""
    known = read_csv(path, WHO, DAMAGED) if path.is_file() else []
    rows = {row["pseudonym"]: row for row in [*known, *trial.test_records()]}
    write_csv(path, rows.values(), WHO)


def _run_arm(arm: str, trial: Trial, folder: Path) -> None:
    # Making the two sides is nobody's time: the arms share them.
    _ = trial.split if arm.startswith(("multi", "single")) else trial.raw
    started = time.monotonic()
    outcome = find(arm)(trial, folder)
    finish(folder, outcome, time.monotonic() - started)


def _read_facts(path: Path) -> dict[str, Any]:
    return dict(read_json(path, CellFacts, "the record of a cell", DAMAGED))


def plan_document(plan: ComparisonPlan) -> dict[str, Any]:
    """The plan for `results.json`."""
    document = asdict(plan)
    document["case"] = plan.case.name
    document["source"] = plan.source.name if plan.source else "bundled"
    document["device"] = str(plan.device)
    for key in ("workers", "keep"):
        del document[key]
    return document
