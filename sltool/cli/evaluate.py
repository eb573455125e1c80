"""`sltool evaluate`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from sltool.cli.command import DeviceOption, SitesOption, Terminal, command, pick_device
from sltool.cli.server_train import RunOption

LevelOption = Annotated[
    Literal["image", "study", "patient"],
    typer.Option(
        "--level",
        help="What is scored: each image, or the mean over each study (examination) or patient.",
    ),
]
UNITS = {"image": "samples", "study": "studies", "patient": "patients"}


def add_to(app: typer.Typer) -> None:
    command(app, "evaluate")(evaluate)


def evaluate(
    terminal: Terminal,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            "--metrics", metavar="NAME", help="Names as in `sltool list metrics`. Default: all."
        ),
    ] = None,
    run: RunOption = "default",
    split: Annotated[
        Literal["test", "validation"], typer.Option("--split", help="test or validation.")
    ] = "test",
    level: LevelOption = "image",
    by: Annotated[
        Literal["site"] | None,
        typer.Option("--by", help="site: also each site's figures: is a small one served as well?"),
    ] = None,
    sites: SitesOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Measure a run's best network.

    Test samples of all sites, unless --sites says otherwise. Writes metrics.json and
    predictions.csv in server/runs/NAME.
    """
    from sltool.server.evaluation import evaluate as evaluate_run
    from sltool.server.queue import Queue
    from sltool.studyfile import load_study

    folder = terminal.folder
    study = load_study(folder)
    study.check_sites(sites or [])
    store = Queue(folder, study).store
    done = evaluate_run(
        folder, study, store, run, split, level, metrics or [], sites or [], pick_device(device)
    )
    columns: dict[str, Any] = {done.split: {"samples": done.samples, "metrics": done.metrics}}
    if by == "site":
        columns.update(done.by_site)
    notes = [*done.notes, *(f"site {site}: {note}" for site, note in _of_sites(done.by_site, by))]
    for note in notes:
        terminal.note(note)
    document = {
        "run": done.run,
        "split": done.split,
        "level": done.level,
        "samples": done.samples,
        "metrics": done.metrics,
        "notes": done.notes,
        **({"by_site": done.by_site} if by == "site" else {}),
    }
    terminal.table(
        document,
        ["metric", *(f"{key} ({one['samples']} {UNITS[level]})" for key, one in columns.items())],
        [
            [name, *(format_metric(one["metrics"][name]) for one in columns.values())]
            for name in done.metrics
        ],
    )


def _of_sites(by_site: dict[str, dict[str, Any]], by: str | None) -> list[tuple[str, str]]:
    return [(site, note) for site, one in by_site.items() if by for note in one["notes"]]


def format_metric(value: float | None) -> str:
    """Four decimals; a dash where the metric is not defined."""
    return "-" if value is None else f"{value:.4f}"
