"""`sltool server-train`."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sltool.cli import completion
from sltool.cli.command import (
    DeviceOption,
    ForceOption,
    SeedOption,
    SitesOption,
    Terminal,
    command,
)
from sltool.cli.intake import intake_document, report_intake
from sltool.machine import CTRL_C
from sltool.wording import plural

if TYPE_CHECKING:
    from sltool.server.intake.result import IntakeResult
    from sltool.server.training.run import TrainingResult
    from sltool.study.layout import StudyFolder

RunOption = Annotated[
    str,
    typer.Option("--run", metavar="NAME", autocompletion=completion.runs, help="The run's name."),
]
TIMES = ["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d"]


def add_to(app: typer.Typer) -> None:
    command(app, "server-train", kept="the last checkpoint is kept")(server_train)


def server_train(
    terminal: Terminal,
    run: RunOption = "default",
    sites: SitesOption = None,
    site_weights: Annotated[
        str,
        typer.Option(
            "--site-weights",
            metavar="WEIGHTS",
            autocompletion=completion.site_weights,
            help="Each site's share of an epoch: proportional (to its samples), equal, or A=3,B=1.",
        ),
    ] = "proportional",
    max_samples_per_site: Annotated[
        int | None,
        typer.Option("--max-samples-per-site", min=1, metavar="N", help="At most, an epoch."),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Keep taking shards in; they join at the next epoch.")
    ] = False,
    wait_for: Annotated[
        list[str] | None,
        typer.Option(
            "--wait-for",
            metavar="NAME",
            autocompletion=completion.sites,
            help="Begin when these sites have shipped.",
        ),
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option("--until", formats=TIMES, help="Stop at this local time; go on another day."),
    ] = None,
    max_epochs: Annotated[
        int | None,
        typer.Option("--max-epochs", min=1, metavar="N", help="Stop when the run has so many."),
    ] = None,
    resume: Annotated[
        Literal["auto", "never"],
        typer.Option("--resume", help="never: begin anew, under the next free name."),
    ] = "auto",
    precision: Annotated[
        Literal["auto", "fp32", "bf16"],
        typer.Option("--precision", help="auto: bf16 where this machine is faster at it."),
    ] = "auto",
    seed: SeedOption = 0,
    seeds: Annotated[
        int | None,
        typer.Option(
            "--seeds", min=1, metavar="N", help="Train N runs NAME-0, NAME-1 ... from --seed on."
        ),
    ] = None,
    device: DeviceOption = "auto",
    force: ForceOption = False,
) -> None:
    """Take in shards and train the server network.

    Goes on with the run where it stopped. Writes server/runs/NAME. SIGTERM and Ctrl-C end it
    after the step under way, with a checkpoint. Runs under torchrun, too.
    """
    from sltool.server.training.run_settings import RunOptions
    from sltool.server.training.site_control import SiteControl

    terminal.folder.run(run)
    options = RunOptions(
        run=run,
        sites=sites or [],
        seed=seed,
        control=SiteControl.parse(site_weights, max_samples_per_site),
        precision=precision,
        force=force,
        resume=resume == "auto",
        watch=watch,
        max_epochs=max_epochs,
        until=until,
    )
    runs = [replace(options, run=f"{run}-{n}", seed=seed + n) for n in range(seeds or 0)]
    done = terminal.open_study().train_runs(
        runs or [options], wait_for=wait_for or [], device=device, on_intake=_Report(terminal)
    )
    accepted, rejected = (
        sum(len(getattr(intake, kind)) for intake in done.intakes)
        for kind in ("accepted", "rejected")
    )
    if not done.reports:
        return
    documents = [_document(terminal.folder, result, accepted, rejected) for result in done.results]
    several = {"runs": documents, "stopped": done.stopped}
    single = len(documents) == 1 and not seeds
    terminal.result(documents[0] if single else several, *map(_line, done.results))
    if done.stopped == CTRL_C:
        raise KeyboardInterrupt


class _Report:
    """Prints what each look into the inbox brought, unless nothing has changed since the last."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._before: dict[str, Any] = {}

    def __call__(self, intake: IntakeResult) -> None:
        document = intake_document(intake)
        if document != self._before:
            report_intake(self._terminal, intake)
        self._before = document


def _document(
    folder: StudyFolder, result: TrainingResult, accepted: int, rejected: int
) -> dict[str, Any]:
    return {
        "run": result.run,
        "sites": result.sites,
        "epochs": result.epochs,
        "best_epoch": result.best_epoch,
        "samples": result.samples,
        "accepted": accepted + result.accepted,
        "rejected": rejected + result.rejected,
        "seconds": round(result.seconds, 3),
        "samples_per_second": round(result.samples_per_second, 1),
        "checkpoint": str(folder.run(result.run).checkpoint),
        "stopped": result.stopped,
    }


def _line(result: TrainingResult) -> str:
    verb = "already trained" if result.finished_before else "trained"
    stopped = f"; stopped: {result.stopped}" if result.stopped else ""
    epochs, samples = plural(result.epochs, "epoch"), plural(result.samples, "sample")
    sites = f"{'site' if len(result.sites) == 1 else 'sites'} {' '.join(result.sites)}"
    return (
        f"run {result.run}: {verb} {epochs} on {samples} of {sites}; the best is epoch "
        f"{result.best_epoch} (lowest validation loss){stopped}"
    )
