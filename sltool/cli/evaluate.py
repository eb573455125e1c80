"""`sltool evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from math import isfinite
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sltool.cli import completion
from sltool.cli.command import DeviceOption, SitesOption, Terminal, command
from sltool.cli.layout import aligned
from sltool.cli.server_train import RunOption
from sltool.errors import UsageError
from sltool.wording import plural

if TYPE_CHECKING:
    from sltool.experiments.site_figures import FiguresBySite, SiteFigure, Worst
    from sltool.server.evaluation.evaluate import Evaluation
    from sltool.server.evaluation.operating_points import OperatingPoints
    from sltool.server.evaluation.proportions import Estimate

LevelOption = Annotated[
    Literal["image", "examination", "study", "patient"],
    typer.Option(
        "--level",
        help="What is scored: each image, or the mean over each examination (or: study) or "
        "patient.",
    ),
]
SplitOption = Annotated[
    Literal["test", "validation"], typer.Option("--split", help="test or validation.")
]
MetricsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--metrics",
        metavar="NAME",
        autocompletion=completion.metrics,
        help="Names as in `sltool list metrics`. Default: all.",
    ),
]
# Notes about sites that are shown; --json has all.
SHOWN = 20
UNITS = {
    "image": "samples",
    "study": "examinations",
    "examination": "examinations",
    "patient": "patients",
}


def add_to(app: typer.Typer) -> None:
    command(app, "evaluate", kept="figures that were written are kept")(evaluate)


def evaluate(
    terminal: Terminal,
    metrics: MetricsOption = None,
    run: RunOption = "default",
    split: SplitOption = "test",
    level: LevelOption = "image",
    by: Annotated[
        Literal["site"] | None,
        typer.Option(
            "--by",
            help="site: also each site's figures with 95 % intervals, and the worst-served site.",
        ),
    ] = None,
    sites: SitesOption = None,
    at: Annotated[
        list[str] | None,
        typer.Option(
            "--at",
            metavar="METRIC=VALUE",
            autocompletion=completion.operating_points,
            help="sensitivity=0.95 or specificity=0.9: choose that threshold on validation.",
        ),
    ] = None,
    prevalence: Annotated[
        float | None,
        typer.Option(
            "--prevalence", help="With --at: of PPV and NPV. Default: as in the test samples."
        ),
    ] = None,
    positive: Annotated[
        str | None,
        typer.Option(
            "--class",
            metavar="NAME",
            autocompletion=completion.classes,
            help="With --at: the class told from all others.",
        ),
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Measure a run's best network.

    Test samples of all sites, unless --sites says otherwise. Writes every metric to metrics.json
    and the predictions to predictions.csv in server/runs/NAME; with --split, --level or --sites to
    files of their own, such as metrics-test@C.json and predictions-test@C.csv. Makes the store
    again if it was deleted.

    --at chooses thresholds on validation samples, reports them on test samples, and writes
    operating-points.json, which `sltool predict` uses.
    """
    from sltool.server.evaluation.evaluate import ask

    study = terminal.open_study()
    _check_points_options(at, prevalence, positive, split)
    points = (
        study.run(run).operating_points(
            at,
            prevalence=prevalence,
            positive=positive,
            level=level,
            sites=sites or [],
            device=device,
        )
        if at
        else None
    )
    done = study.run(run).evaluation(
        metrics or [], split=split, level=level, sites=sites or [], device=device
    )
    question = ask(study.settings, split, level, sites or [])
    names = metrics or list(done.metrics)
    whole = _shown(done.samples, done.metrics, done.notes, names)
    document = {
        "run": done.run,
        "split": split,
        "level": level,
        "sites": list(question.sites) or "all",
        **whole,
        **({"corrected": done.corrected} if done.corrected else {}),
    }
    for note in done.notes:
        terminal.note(note)
    for note in points.notes if points else ():
        terminal.note(note)
    decision = _points_lines(points, UNITS[level], by == "site") if points else []
    if points:
        document["operating_points"] = asdict(points)
    if by == "site":
        _print_sites(terminal, document, done, names, UNITS[level], decision)
        return
    head = ["metric", f"{question.name} ({done.samples} {UNITS[level]})"]
    rows = [[name, format_metric(done.metrics[name])] for name in names]
    terminal.result(document, *aligned(head, rows), *decision)


def _print_sites(
    terminal: Terminal,
    document: dict[str, Any],
    done: Evaluation,
    names: list[str],
    unit: str,
    decision: list[str],
) -> None:
    """A row for all samples and each site, and a line for the worst-served site of each metric.

    Args:
        decision: the lines about operating points.
    """
    from sltool.experiments.site_figures import figures_by_site

    found = figures_by_site(done, names)
    for note in _reasons(found, done):
        terminal.note(note)
    rows = [[f"all ({done.samples} {unit})", *_cells(found.all, names)]]
    for site, figures in done.by_site.items():
        rows.append([f"{site} ({figures['samples']} {unit})", *_cells(found.sites[site], names)])
    of_sites = {
        site: {
            **_shown(figures["samples"], figures["metrics"], figures["notes"], names),
            "intervals": found.intervals_document(site),
        }
        for site, figures in done.by_site.items()
    }
    worst = {
        "by_site": of_sites,
        "worst_served": found.worst_document(),
        "sites_without_samples": done.absent,
    }
    lines = [_worst_line(name, served) for name, served in found.worst.items()]
    terminal.result({**document, **worst}, *aligned(["site", *names], rows), *lines, *decision)


def _reasons(found: FiguresBySite, done: Evaluation) -> list[str]:
    """Why sites have no figure or no sound interval, a line for each site and reason."""
    absent = " ".join(done.absent[:SHOWN])
    sites = plural(len(done.absent), "site has", "sites have")
    reasons = [f"{sites} no such sample: {absent}"] if done.absent else []
    for site, figures in found.sites.items():
        reasons += [f"site {site}: {note}" for note in done.by_site[site]["notes"]]
        by_reason: dict[str, list[str]] = {}
        for name, figure in figures.items():
            if figure.value is not None and figure.reason:
                by_reason.setdefault(figure.reason, []).append(name)
        reasons += [f"site {site}, {' '.join(of)}: {why}" for why, of in by_reason.items()]
    more = [f"{len(reasons) - SHOWN} more of this kind"] if len(reasons) > SHOWN else []
    return reasons[:SHOWN] + more


def _cells(figures: dict[str, SiteFigure], names: Sequence[str]) -> list[str]:
    """'0.9123 (0.8801 to 0.9402)'."""
    cells = []
    for name in names:
        figure = figures[name]
        bounds = f"{format_metric(figure.low)} to {format_metric(figure.high)}"
        shown = format_metric(figure.value)
        cells.append(shown if figure.low is None else f"{shown} ({bounds})")
    return cells


def _worst_line(name: str, worst: Worst) -> str:
    if worst.site is None:
        return f"worst served by {name}: not known, {worst.reason}"
    chance = (
        "outside its interval; of many sites, one in twenty is so by chance"
        if worst.apart
        else "within its interval: the difference may be chance"
    )
    return (
        f"worst served by {name}: site {worst.site}, {format_metric(worst.value)} "
        f"({format_metric(worst.low)} to {format_metric(worst.high)}); all samples have "
        f"{format_metric(worst.all)}, {chance}"
    )


def _check_points_options(
    at: list[str] | None, prevalence: float | None, positive: str | None, split: str
) -> None:
    if at and split != "test":
        raise UsageError(
            "operating points are chosen on validation samples, so that figures on the same "
            "samples would be too good",
            expected="--split test",
        )
    if not at and (prevalence is not None or positive is not None):
        option = "--class" if prevalence is None else "--prevalence"
        raise UsageError(
            f"{option} is about operating points, and none is asked for",
            hint="add --at sensitivity=0.95, or leave it out",
        )


def _points_lines(found: OperatingPoints, units: str, by_site: bool) -> list[str]:
    """The thresholds, a row for all test samples and one for each site, and the calibration."""
    parts = [
        (point, label, figures)
        for point in found.points
        for label, figures in (
            (point.name, point.test),
            *((f"  site {name}", of) for name, of in point.by_site.items() if by_site),
        )
    ]
    head = ["at", "threshold", "positive", "sensitivity", "specificity", "prevalence", "PPV", "NPV"]
    rows = [
        [
            label,
            f"{point.threshold:.4f}",
            f"{figures.positives} of {figures.samples}",
            *(_estimate(value) for value in (figures.sensitivity, figures.specificity)),
            f"{figures.prevalence:.3f}",
            *(_estimate(value) for value in (figures.ppv, figures.npv)),
        ]
        for point, label, figures in parts
    ]
    chosen_on, calibration = found.points[0].validation, found.calibration
    temperature = calibration.temperature
    return [
        "",
        f"'{found.positive}' told from the rest, thresholds from {chosen_on.samples} validation "
        f"{units} ({chosen_on.positives} positive); test figures with 95 % intervals:",
        *aligned(head, rows),
        f"calibration error of test images: {calibration.ece_before:.4f}; "
        + (
            "no temperature fits best on validation"
            if temperature is None
            else f"{calibration.ece_after:.4f} with validation's temperature {temperature:.3f}"
        ),
    ]


def _estimate(figure: Estimate) -> str:
    if figure.value is None:
        return "-"
    return f"{figure.value:.3f} ({figure.low:.3f}-{figure.high:.3f})"


def _shown(
    samples: int, metrics: dict[str, float | None], notes: list[str], names: list[str]
) -> dict[str, Any]:
    shown = {name: metrics[name] for name in names}
    return {"samples": samples, "metrics": shown, "notes": notes}


def format_metric(value: float | None) -> str:
    """Four decimals; a dash where the metric is not defined."""
    return "-" if value is None or not isfinite(value) else f"{value:.4f}"
