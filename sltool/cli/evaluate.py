"""`sltool evaluate`."""

from __future__ import annotations

from dataclasses import asdict
from math import isfinite
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sltool.cli.command import DeviceOption, SitesOption, Terminal, aligned, command
from sltool.cli.server_train import RunOption
from sltool.errors import UsageError

if TYPE_CHECKING:
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
        "--metrics", metavar="NAME", help="Names as in `sltool list metrics`. Default: all."
    ),
]
UNITS = {
    "image": "samples",
    "study": "examinations",
    "examination": "examinations",
    "patient": "patients",
}


def add_to(app: typer.Typer) -> None:
    command(app, "evaluate")(evaluate)


def evaluate(
    terminal: Terminal,
    metrics: MetricsOption = None,
    run: RunOption = "default",
    split: SplitOption = "test",
    level: LevelOption = "image",
    by: Annotated[
        Literal["site"] | None,
        typer.Option("--by", help="site: also each site's figures: is a small one served as well?"),
    ] = None,
    sites: SitesOption = None,
    at: Annotated[
        list[str] | None,
        typer.Option(
            "--at",
            metavar="METRIC=VALUE",
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
        typer.Option("--class", metavar="NAME", help="With --at: the class told from all others."),
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
    of_sites = {
        site: _shown(found["samples"], found["metrics"], found["notes"], names)
        for site, found in done.by_site.items()
        if by == "site"
    }
    for note in done.notes:
        terminal.note(note)
    for site, found in of_sites.items():
        for note in found["notes"]:
            terminal.note(f"site {site}: {note}")
    for note in points.notes if points else ():
        terminal.note(note)
    columns = [(question.name, whole), *of_sites.items()]
    head = ["metric", *(f"{name} ({found['samples']} {UNITS[level]})" for name, found in columns)]
    rows = [
        [name, *(format_metric(found["metrics"][name]) for _, found in columns)] for name in names
    ]
    terminal.result(
        {
            "run": done.run,
            "split": split,
            "level": level,
            "sites": list(question.sites) or "all",
            **whole,
            **({"by_site": of_sites} if by == "site" else {}),
            **({"operating_points": asdict(points)} if points else {}),
        },
        *aligned(head, rows),
        *(_points_lines(points, UNITS[level], by == "site") if points else ()),
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
