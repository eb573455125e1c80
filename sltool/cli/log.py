"""`sltool log`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sltool.cli import completion
from sltool.cli.command import Terminal, command, only_site
from sltool.cli.layout import aligned
from sltool.errors import BadDataError
from sltool.wording import plural

if TYPE_CHECKING:
    from sltool.site.log import LogEntry, SiteLog


def add_to(app: typer.Typer) -> None:
    command(app, "log")(log)


def log(
    terminal: Terminal,
    site: Annotated[
        str | None,
        typer.Option(
            "--site", metavar="NAME", autocompletion=completion.sites, help="Default: the one here."
        ),
    ] = None,
) -> None:
    """Show who did what at this site, when, and with which files.

    From sites/NAME/log.jsonl, which never leaves the hospital. The exit code is 3 if an entry was
    removed or changed.
    """
    from sltool.site.log import read_log

    found = read_log(terminal.folder.site(only_site(terminal, site)))
    for number in found.torn:
        terminal.note(f"entry {number} was not written completely: the machine stopped meanwhile")
    for problem in found.problems:
        terminal.note(f"the log is not as it was written: {problem}")
    terminal.result(
        {
            "site": found.site,
            "entries": found.entries,
            "digest": found.digest,
            "problems": found.problems,
            "torn": found.torn,
        },
        *_lines(found),
    )
    if found.problems:
        raise typer.Exit(BadDataError.exit_code)


def _lines(found: SiteLog) -> list[str]:
    if not found.entries:
        return [f"nothing has been logged at site {found.site} yet"]
    rows = [[entry["time"], entry["user"], entry["event"], _text(entry)] for entry in found.entries]
    lines = aligned(["time", "user", "event", "details"], rows, text=True)
    intact = "the chain is broken" if found.problems else "the chain is whole"
    return [
        *lines,
        f"{plural(len(rows), 'entry', 'entries')}; {intact}; digest of the last: {found.digest}",
    ]


def _text(entry: LogEntry) -> str:
    """The details of an entry on a line; what is only in --json are the files' digests."""
    facts = []
    for name, value in entry["details"].items():
        if isinstance(value, dict):
            facts.append(plural(len(value), name.removesuffix("s")))
        elif value is not None:
            text = str(value)
            facts.append(f"{name} {text[:16] if len(text) == 64 else text}")
    return ", ".join(facts)
