"""`sltool evaluate`."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sltool.cli.command import DeviceOption, SitesOption, Terminal, command
from sltool.cli.server_train import RunOption

if TYPE_CHECKING:
    pass

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
    device: DeviceOption = "auto",
) -> None:
    """Measure a run's best network.

    Test samples of all sites, unless --sites says otherwise. Writes every metric to metrics.json
    and the predictions to predictions.csv in server/runs/NAME; with --split, --level or --sites to
    files of their own, such as metrics-test@C.json and predictions-test@C.csv. Makes the store
    again if it was deleted.
    """
    from sltool.server.evaluation.evaluate import ask

    study = terminal.open_study()
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
    columns = [(question.name, whole), *of_sites.items()]
    terminal.table(
        {
            "run": done.run,
            "split": split,
            "level": level,
            "sites": list(question.sites) or "all",
            **whole,
            **({"corrected": done.corrected} if done.corrected else {}),
            **({"by_site": of_sites} if by == "site" else {}),
        },
        ["metric", *(f"{name} ({found['samples']} {UNITS[level]})" for name, found in columns)],
        [
            [name, *(format_metric(found["metrics"][name]) for _, found in columns)]
            for name in names
        ],
    )


def _shown(
    samples: int, metrics: dict[str, float | None], notes: list[str], names: list[str]
) -> dict[str, Any]:
    shown = {name: metrics[name] for name in names}
    return {"samples": samples, "metrics": shown, "notes": notes}


def format_metric(value: float | None) -> str:
    """Four decimals; a dash where the metric is not defined."""
    return "-" if value is None or not isfinite(value) else f"{value:.4f}"
