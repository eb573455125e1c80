"""`sltool server-train`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

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

if TYPE_CHECKING:
    from sltool.server.queue import Intake

RunOption = Annotated[str, typer.Option("--run", metavar="NAME", help="The run's name.")]


def add_to(app: typer.Typer) -> None:
    command(app, "server-train")(server_train)


def server_train(
    terminal: Terminal,
    run: RunOption = "default",
    sites: SitesOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    force: ForceOption = False,
) -> None:
    """Take in shards and train the server network.

    Goes on with the run where it stopped. Writes server/runs/NAME.
    """
    from sltool.server.queue import Queue
    from sltool.server.run import train
    from sltool.study import load_study

    folder = terminal.folder
    study = load_study(folder)
    study.check_sites(sites or [])
    queue = Queue(folder, study)
    intake = queue.take(terminal)
    report_intake(terminal, intake)
    if intake.rejected and not queue.store.segments:
        raise intake.rejected[0].error
    where = pick_device(device)
    done = train(folder, study, queue.store, run, sites or [], seed, where, terminal, force)
    verb = "already trained" if done.again else "trained"
    terminal.result(
        {
            "run": done.run,
            "sites": done.sites,
            "epochs": done.epochs,
            "best_epoch": done.best_epoch,
            "samples": done.samples,
            "accepted": len(intake.accepted),
            "rejected": len(intake.rejected),
            "seconds": round(done.seconds, 3),
            "samples_per_second": round(done.samples_per_second, 1),
            "checkpoint": str(folder.run(run).checkpoint),
        },
        f"run {done.run}: {verb} {done.epochs} epochs on {done.samples} samples of sites "
        f"{' '.join(done.sites)}; the best is epoch {done.best_epoch} (lowest validation loss)",
    )


def report_intake(terminal: Terminal, intake: Intake) -> None:
    """Say what became of the shards in the inbox."""
    if intake.accepted:
        terminal.note(f"{len(intake.accepted)} shards accepted")
    if intake.already:
        terminal.note(f"{len(intake.already)} shards had been accepted before")
    for one in intake.rejected:
        terminal.note(f"{one.name} was refused: {one.error.what} (see server/rejected)")
