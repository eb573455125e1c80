"""Compares the figures of several runs, as `evaluate` wrote them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sltool.errors import StageOrderError
from sltool.server.evaluation.evaluate import read_metrics
from sltool.server.training.run import find_run, run_settings
from sltool.study.layout import Question, StudyFolder


@dataclass(frozen=True)
class RunFigures:
    """One run's figures for a question."""

    run: str
    sites: list[str]
    samples: int
    metrics: dict[str, Any]


def compare_runs(folder: StudyFolder, names: Sequence[str], question: Question) -> list[RunFigures]:
    """One row per run, in the order of `names` (none: every run with figures for the question).

    Raises:
        UnknownNameError: there is no run of that name.
        StageOrderError: no run has begun, or a named run or every run lacks these figures.
    """
    split, level = question.split, question.level
    rows = []
    for name in names or folder.run_names():
        run = find_run(folder, name)
        figures = read_metrics(run, question)
        if figures is None and names:
            raise StageOrderError(
                f"run '{name}' has no {split} figures at the level {level}",
                where=run.metrics(question),
                hint=f"run `sltool evaluate --run {name} --split {split} --level {level}` first",
            )
        if figures is not None:
            sites = run_settings(run)["sites"]
            rows.append(RunFigures(name, sites, figures["samples"], figures["metrics"]))
    if not rows:
        raise StageOrderError(
            f"no run has {split} figures at the level {level} yet",
            where=folder.runs,
            hint="run `sltool server-train` and `sltool evaluate` first",
        )
    return rows
