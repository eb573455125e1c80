"""Writes report.html, pictures, results.json and results.csv of a comparison or a study's runs."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sltool.errors import BadDataError, StageOrderError, UnknownNameError
from sltool.experiments.arm_files import FinishedArm, TrainingSummary
from sltool.experiments.figures import draw_all
from sltool.experiments.leak_figures import front_settings, leaks
from sltool.experiments.report_page import write_page
from sltool.experiments.results import REFERENCE, ArmResult, Results, make_rows, write_results
from sltool.experiments.style import Sheet
from sltool.files import read_csv
from sltool.metrics import metrics_for, plugin_metrics
from sltool.server.training.run_settings import read_settings
from sltool.study.layout import PLAIN, Question, RunFolder, StudyFolder
from sltool.study.partition_record import read_partition
from sltool.study.schema import SPLITS, Study
from sltool.version import __version__

if TYPE_CHECKING:
    from sltool.experiments.comparison import ComparisonPlan

LEAK = (
    "This source names no patients, and its samples were split at random: images of the same "
    "patient may be in both training and test, so every metric here may be too optimistic for a "
    "new patient. The intervals are over samples, not patients, and are too narrow for the same "
    "reason."
)
# Sites whose samples are listed one by one.
MOST_LISTED = 10
HEADLINES = {
    "regression": ("rmsle", "smape", "mae", "r2"),
    "binary": ("accuracy", "auroc", "kappa", "sensitivity", "specificity"),
    "multiclass": ("accuracy", "kappa", "f1"),
}


@dataclass(frozen=True)
class Reported:
    """The path of the written page, and its results."""

    page: Path
    results: Results


def report_plan(plan: ComparisonPlan, finished: list[FinishedArm], out: Path) -> Reported:
    """The report of a comparison."""
    facts = finished[0].facts
    metrics = shown_metrics(facts["labels"]["kind"], plan.case.metrics)
    warnings = (LEAK,) if not plan.case.patients and _has_one_sample_per_group(facts) else ()
    skipped = {arm: why for run in finished for arm, why in run.facts["left_out"].items()}
    results = Results(
        title=f"{plan.case.title}: the arms of {plan.case.name} compared",
        labels=facts["labels"],
        metrics=metrics,
        rows=make_rows(finished, metrics, REFERENCE),
        published=plan.case.published,
        setup={**_setup(facts), **_time(finished), **_machine()},
        warnings=(*warnings, *dict.fromkeys(n for run in finished for n in run.facts["notes"])),
        skipped=skipped,
    )
    results = replace(results, setup={**results.setup, **front_settings(results, plan.case.layers)})
    return _write(results, out)


def report_runs(folder: StudyFolder, study: Study, names: Sequence[str], out: Path) -> Reported:
    """The report of a study's runs, from the tables of `evaluate`.

    Raises:
        UnknownNameError: there is no run of that name.
        StageOrderError: a run was not evaluated on the test samples, or none was.
    """
    rows = study_rows(folder, study, names, PLAIN)
    finished = [row.finished[0] for row in rows]
    results = Results(
        title=f"Runs of the study {study.id[:8]} ({study.dataset.name})",
        labels=study.samples.labels.model_dump(mode="json"),
        metrics=shown_metrics(study.samples.labels.kind),
        rows=rows,
        setup={**_study_setup(folder, study, finished), **_time(finished), **_machine()},
    )
    return _write(results, out)


def study_rows(
    folder: StudyFolder,
    study: Study,
    names: Sequence[str],
    question: Question,
    wanted: Sequence[str] = (),
) -> list[ArmResult]:
    """The results of a study's runs for one question; the other runs are compared with the first.

    Args:
        wanted: metrics; empty for the usual ones.

    Raises the errors of `report_runs`.
    """
    runs = [_evaluated(folder, name, question) for name in names] or [
        folder.run(name)
        for name in folder.run_names()
        if folder.run(name).predictions(question).is_file()
    ]
    if not runs:
        raise StageOrderError(
            f"no run has {question.split} predictions yet",
            where=folder.runs,
            hint="run `sltool server-train` and `sltool evaluate` first",
        )
    finished = [_finished_run(run, question) for run in runs]
    metrics = wanted or shown_metrics(study.samples.labels.kind)
    return make_rows(finished, metrics, finished[0].arm)


def shown_metrics(kind: str, wanted: Sequence[str] = ()) -> tuple[str, ...]:
    """Those of `wanted` for this kind of labels, or else its usual ones; and plug-in metrics."""
    known = metrics_for(kind)
    fitting = [name for name in wanted if name in known]
    return tuple(dict.fromkeys([*(fitting or HEADLINES[kind]), *plugin_metrics(kind)]))


def _write(results: Results, out: Path) -> Reported:
    drawn = draw_all(results, out / "figures")
    audited = leaks(results, Sheet(out / "figures"))
    if audited is not None:
        leaks(results, Sheet(out / "figures", narrow=True))
        drawn.insert(0, audited)
    write_results(results, out)
    return Reported(write_page(results, drawn, out), results)


def _evaluated(folder: StudyFolder, name: str, question: Question) -> RunFolder:
    run = folder.run(name)
    if not run.settings.is_file():
        raise UnknownNameError.of("run", name, folder.run_names())
    if not run.predictions(question).is_file():
        raise StageOrderError(
            f"run '{name}' has no {question.split} predictions",
            where=run.root,
            hint=f"run `sltool evaluate --run {name} --split {question.split}` first",
        )
    return run


def _finished_run(run: RunFolder, question: Question) -> FinishedArm:
    hint = f"run `sltool server-train --run {run.name}` again: it is written from the checkpoint"
    rows = read_csv(run.history, ("epoch", "samples", "seconds"), hint)
    settings = read_settings(run)
    try:
        losses = [float(row["validation_loss"]) for row in rows if row.get("validation_loss")]
        seconds = sum(float(row["seconds"]) for row in rows)
        samples = int(float(rows[-1]["samples"]))
    except (ValueError, IndexError) as error:
        raise BadDataError(
            f"the table is damaged: {error}", where=run.history, hint=hint
        ) from error
    best = losses.index(min(losses)) + 1 if losses else len(rows)
    outcome = TrainingSummary(samples, len(rows), best)
    return FinishedArm(
        run.name, {}, settings["seed"], outcome, seconds, run.root, dict(settings), question
    )


def _has_one_sample_per_group(facts: dict[str, Any]) -> bool:
    samples = sum(sum(splits.values()) for splits in facts["counts"].values())
    return bool(samples == sum(facts["patients"].values()))


def _setup(facts: dict[str, Any]) -> dict[str, str]:
    patients = ", ".join(f"{count} {split}" for split, count in facts["patients"].items())
    return {
        "dataset": f"{facts['dataset']}, source {facts['source']}",
        "recipe": facts.get("recipe", "not recorded"),
        "samples (first seed)": _counts(facts["counts"]),
        "patients or groups": patients,
        # Records of earlier versions have the ratios alone.
        "sites": facts.get("division") or f"shares {facts['ratios']}",
        "settings over the recipe": "; ".join(facts["settings"]) or "none",
        "model": json.dumps(facts["model"]),
        "encoding": json.dumps(facts["encoding"]),
        "training": json.dumps(facts["training"]),
        "encoding digest (first seed)": facts["encoding_digest"],
        "privacy layer's SHA-256 (first seed)": facts["privacy_layer_digest"],
    }


def _counts(sites: dict[str, dict[str, int]]) -> str:
    """The samples of each site and split; of many sites, the smallest and the largest number."""
    if len(sites) <= MOST_LISTED:
        return "; ".join(
            f"{site}: {', '.join(f'{count} {split}' for split, count in splits.items())}"
            for site, splits in sites.items()
        )
    ranges = (
        f"{min(counts[split] for counts in sites.values())} to "
        f"{max(counts[split] for counts in sites.values())} {split}"
        for split in SPLITS
    )
    return f"{len(sites)} sites, each with {', '.join(ranges)}"


def _study_setup(folder: StudyFolder, study: Study, finished: list[FinishedArm]) -> dict[str, str]:
    runs = "; ".join(f"{run.arm}: sites {' '.join(run.facts['sites'])}" for run in finished)
    return {
        "study": study.id,
        "dataset": study.dataset.name,
        **({"sites": partition["division"]} if (partition := read_partition(folder)) else {}),
        "runs": runs,
        "model": json.dumps(study.model.model_dump(mode="json")),
        "training": json.dumps(finished[0].facts["training"]),
        "encoding digest": str(finished[0].facts["encoding"]),
    }


def _time(finished: list[FinishedArm]) -> dict[str, str]:
    seeds = sorted({run.seed for run in finished})
    return {
        "seeds": ", ".join(map(str, seeds)),
        "time of all arms": f"{sum(run.seconds for run in finished):.0f} s",
    }


def _machine() -> dict[str, str]:
    names = ("torch", "numpy", "scikit-learn", "pandas", "h5py")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    return {
        "versions": f"sltool {__version__}, Python {platform.python_version()}, {versions}",
        "machine": f"{platform.system()} {platform.machine()}",
    }
