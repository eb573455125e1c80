"""`sltool queue`: look after arrived shards by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sltool.cli import completion
from sltool.cli.command import Group, Terminal, command
from sltool.cli.intake import intake_document, report_intake
from sltool.errors import ShardRefusedError


def add_to(app: typer.Typer) -> None:
    queue = typer.Typer(
        cls=Group, help="Fetch, take in, verify or approve shards.", rich_markup_mode=None
    )
    command(queue, "fetch", kept="the files that were fetched are kept")(fetch)
    command(queue, "take", kept="the files that were taken in are kept")(take)
    command(queue, "verify")(verify)
    command(queue, "approve", kept="the shard is held until it is accepted")(approve)
    app.add_typer(queue, name="queue")


def fetch(
    terminal: Terminal,
    source: Annotated[
        str, typer.Argument(metavar="DIR|URL", help="Where sites ship to: a folder or a URL.")
    ],
) -> None:
    """Copy to the inbox what sites shipped elsewhere.

    From a disk, s3://bucket/prefix or sftp://host/path; what was fetched before is skipped, and
    nothing is deleted there. It may run while `server-train --watch` does.
    """
    done = terminal.open_study().fetch(source)
    terminal.result(
        {"source": done.source, "fetched": done.files, "fetched_before": done.before},
        f"{len(done.files)} fetched from {done.source}, {done.before} fetched before",
    )


def take(
    terminal: Terminal,
    file: Annotated[
        Path | None, typer.Argument(help="One shard or withdrawal. Default: the whole inbox.")
    ] = None,
) -> None:
    """Take in what has arrived, without training.

    The exit code is 4 if a file was refused or held, or had to stay in the inbox; the others were
    taken in. For one FILE it says what became of it: 4 refused or held, 5 not trusted, 6 of another
    study.
    """
    from sltool.server.intake.lock import only_server
    from sltool.server.intake.queue import Queue
    from sltool.study.study_file import load_study

    folder = terminal.folder
    study = load_study(folder)
    with only_server(folder):
        queue = Queue(folder, study)
        intake = queue.take_file(file, terminal) if file else queue.take(terminal)
    report_intake(terminal, intake)
    terminal.result(
        intake_document(intake),
        f"{len(intake.accepted)} accepted, {len(intake.already)} already there, "
        f"{len(intake.quarantined)} quarantined, {len(intake.rejected)} refused, "
        f"{len(intake.left)} left",
    )
    if intake.not_accepted:
        raise typer.Exit(ShardRefusedError.exit_code)


def verify(
    terminal: Terminal, file: Annotated[Path, typer.Argument(help="A shard or a withdrawal.")]
) -> None:
    """Check a file as the queue would, and leave it where it is."""
    from sltool.server.intake.queue import Queue
    from sltool.study.study_file import load_study

    name = Queue(terminal.folder, load_study(terminal.folder)).check(file)
    terminal.result({"file": str(file), "name": name}, f"{file} is good: {name}")


def approve(
    terminal: Terminal,
    shard: Annotated[
        str, typer.Argument(autocompletion=completion.held, help="Its name in server/held.")
    ],
) -> None:
    """Accept a shard that was held because it looked wrong."""
    from sltool.server.intake.lock import only_server
    from sltool.server.intake.queue import Queue
    from sltool.study.study_file import load_study

    folder = terminal.folder
    study = load_study(folder)
    with only_server(folder):
        Queue(folder, study).approve(shard, terminal)
    terminal.result({"approved": shard}, f"{shard} was accepted")
