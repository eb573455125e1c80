"""`sltool server-train`."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sltool.cli.command import (
    DeviceOption,
    ForceOption,
    SeedOption,
    SitesOption,
    Terminal,
    command,
    pick_device,
)
from sltool.cli.intake import intake_document, report_intake

if TYPE_CHECKING:
    from sltool.server.intake.queue import Queue
    from sltool.server.intake.result import IntakeResult
    from sltool.server.training.distributed import Ranks
    from sltool.server.training.run import TrainingResult
    from sltool.server.training.run_settings import RunOptions
    from sltool.study.layout import StudyFolder

RunOption = Annotated[str, typer.Option("--run", metavar="NAME", help="The run's name.")]
TIMES = ["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d"]


def add_to(app: typer.Typer) -> None:
    command(app, "server-train")(server_train)


def server_train(
    terminal: Terminal,
    run: RunOption = "default",
    sites: SitesOption = None,
    site_weights: Annotated[
        str,
        typer.Option(
            "--site-weights",
            metavar="WEIGHTS",
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
        typer.Option("--wait-for", metavar="NAME", help="Begin when these sites have shipped."),
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
    from sltool.server.intake.lock import only_server
    from sltool.server.intake.queue import Queue
    from sltool.server.training.distributed import join_ranks, local_device
    from sltool.server.training.run import train
    from sltool.server.training.run_settings import RunOptions
    from sltool.server.training.sampler import SiteControl
    from sltool.study.study_file import load_study

    folder = terminal.folder
    study = load_study(folder)
    study.check_sites([*(sites or []), *(wait_for or [])])
    control = SiteControl.parse(site_weights, max_samples_per_site)
    study.check_sites(control.weights)
    where = local_device(pick_device(device))
    plan = RunOptions(
        run=run,
        sites=sites or [],
        seed=seed,
        control=control,
        precision=precision,
        force=force,
        resume=resume == "auto",
        watch=watch,
        max_epochs=max_epochs,
        until=until,
    )
    plans = [replace(plan, run=f"{run}-{n}", seed=seed + n) for n in range(seeds or 0)] or [plan]
    for name in (run, *(one.run for one in plans)):
        folder.run(name)  # A name that cannot be is told before anything is taken in.
    with (
        join_ranks(where) as ranks,
        only_server(folder) if ranks.is_first else nullcontext(),
    ):
        if not ranks.is_first:
            terminal = Terminal(terminal.study, quiet=True)
        queue = Queue(folder, study)
        intakes = _take_in(terminal, queue, plan, wait_for or [], ranks)
        if intakes is None:
            return
        done = [train(folder, study, queue.store, one, where, terminal, ranks) for one in plans]
    accepted, rejected = (
        sum(len(getattr(intake, kind)) for intake in intakes) for kind in ("accepted", "rejected")
    )
    documents = [_document(folder, one, accepted, rejected) for one in done]
    terminal.result(documents[0] if not seeds else {"runs": documents}, *map(_line, done))


def _take_in(
    terminal: Terminal, queue: Queue, plan: RunOptions, wait_for: list[str], ranks: Ranks
) -> list[IntakeResult] | None:
    """What came in before training; None if it shall stop before enough has come.

    Raises:
        ShardRefusedError: nothing but refused shards came.
    """
    from sltool.server.intake.watcher import wait_for as wait
    from sltool.server.training.stop import Stop

    intakes: list[IntakeResult] = []

    def take() -> None:
        intake = queue.take(terminal)
        # Who waits looks every second, and says once what stays as it was.
        if not intakes or intake_document(intake) != intake_document(intakes[-1]):
            report_intake(terminal, intake)
        intakes.append(intake)

    if wait_for or plan.watch:
        with Stop(plan.until).on_signals() as stop:
            if not wait(queue.store, wait_for, take, stop, ranks):
                terminal.note(f"stopped before the shards were there: {stop.reason}")
                return None
    elif ranks.is_first:
        take()
    rejected = [one for intake in intakes for one in (*intake.rejected, *intake.left)]
    if rejected and not queue.store.segments:
        raise rejected[0].error
    ranks.broadcast(None)  # The other ranks read the store when rank 0 has filled it.
    return intakes


def _document(
    folder: StudyFolder, one: TrainingResult, accepted: int, rejected: int
) -> dict[str, Any]:
    return {
        "run": one.run,
        "sites": one.sites,
        "epochs": one.epochs,
        "best_epoch": one.best_epoch,
        "samples": one.samples,
        "accepted": accepted + one.accepted,
        "rejected": rejected + one.rejected,
        "seconds": round(one.seconds, 3),
        "samples_per_second": round(one.samples_per_second, 1),
        "checkpoint": str(folder.run(one.run).checkpoint),
        "stopped": one.stopped,
    }


def _line(one: TrainingResult) -> str:
    verb = "already trained" if one.finished_before else "trained"
    stopped = f"; stopped: {one.stopped}" if one.stopped else ""
    epochs = f"{one.epochs} epoch{'' if one.epochs == 1 else 's'}"
    return (
        f"run {one.run}: {verb} {epochs} on {one.samples} samples of sites "
        f"{' '.join(one.sites)}; the best is epoch {one.best_epoch} (lowest validation loss)"
        f"{stopped}"
    )
