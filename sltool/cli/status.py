"""`sltool status`."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from sltool.accounting import DELTA
from sltool.cli.command import Terminal, command
from sltool.cli.layout import aligned
from sltool.study.next_step import NextStep
from sltool.wording import plural

if TYPE_CHECKING:
    from sltool.api import State
    from sltool.coordinator.status import CoordinatorStatus
    from sltool.server.intake.status import Status

NO_STUDY = (
    NextStep("sltool join KIT --site NAME", "at a hospital that got a study's kit"),
    NextStep("sltool study new DATASET", "at the coordinator, to make a study"),
)


def add_to(app: typer.Typer) -> None:
    command(app, "status")(status)


def status(terminal: Terminal) -> None:
    """Show what is done, and the command that comes next.

    At a site: its stages. At the coordinator: who has which version of the study. At the server:
    the shards of each site and split, gaps in their numbers, files that wait, were held or refused,
    withdrawals, risks that a site accepted, and the runs.
    """
    from sltool.api import Study

    state = Study(terminal.study, progress=terminal).state()
    if state.server.division:
        terminal.note(f"the samples were divided here: {state.server.division}")
    _note_server(terminal, state.server)
    for site in state.sites:
        for problem in site.log_problems:
            terminal.note(f"the log of site {site.site} is not as it was written: {problem}")
    steps = _next_steps(terminal, state)
    terminal.result(_document(state, steps), *_lines(terminal, state, steps))


def _note_server(terminal: Terminal, found: Status) -> None:
    for gap in found.gaps:
        terminal.note(str(gap))
    for file in found.quarantined:
        terminal.note(f"{file['file']} is {file['reason']} (`sltool queue approve {file['file']}`)")
    for file in found.rejected:
        terminal.note(f"{file['file']} was refused: {file['reason']} (see server/rejected)")
    for risk in found.accepted_risks:
        terminal.note(
            f"site {risk.site} shipped {plural(risk.shards, 'shard')} against the study's "
            "privacy limits "
            f"({risk.refusal}); its reason: {risk.reason}"
        )
    for file in found.withdrawals:
        runs = " ".join(file["runs"]) or "none"
        terminal.note(f"{file['file']} was taken in; runs that saw the rows: {runs}")
    if found.epsilon is not None:
        terminal.note(
            f"the feature maps of one record in one encoding have epsilon {found.epsilon:.3g} at "
            f"delta {DELTA:g}; each site states that of a patient and of several encodings"
        )
    if found.waiting:
        terminal.note(f"{plural(found.waiting, 'file waits', 'files wait')} in the inbox")


def _next_steps(terminal: Terminal, state: State) -> list[tuple[str, NextStep]]:
    """Who types what next."""
    folder = terminal.folder
    if state.study is None and not folder.server.is_dir():
        return [("here", step) for step in NO_STUDY]
    steps = [(f"site {site.site}", site.next) for site in state.sites]
    if state.coordinator is not None:
        steps.append(("coordinator", state.coordinator.next))
    if _is_server(terminal, state):
        steps.append(("server", state.server.next))
    return steps or [("here", step) for step in _alone(terminal, state)]


def _alone(terminal: Terminal, state: State) -> list[NextStep]:
    """Next steps in a folder with a study.yaml that is not yet of any party."""
    if terminal.folder.prepared.is_file():
        return [NextStep("sltool partition", "simulates sites; --site NAME at a real hospital")]
    return [
        NextStep("sltool study kit", "at the coordinator: packs the study for the sites"),
        NextStep("sltool prepare --source PATH", "to try the study here"),
    ]


def _lines(terminal: Terminal, state: State, steps: list[tuple[str, NextStep]]) -> list[str]:
    lines = []
    if state.study is None:
        lines.append("there is no study here")
    else:
        lines.append(
            f"study {state.study}, version {state.agreement[:16] or 'without privacy layer'}"
        )
    lines += [f"site {site.site}: {', '.join(site.done)}" for site in state.sites]
    if state.coordinator is not None:
        lines.append(_coordinator_line(state.coordinator, len(state.parties)))
    if state.coordinator is not None or any(party.agreement for party in state.parties):
        rows = [[party.site, party.fingerprint[:19], party.version] for party in state.parties]
        lines += aligned(["site", "key", "version it joined"], rows) if rows else []
    arrived = state.server.arrived
    if not arrived and _is_server(terminal, state):
        lines.append("server: no shard has arrived")
    elif arrived:
        rows = [[part.site, part.split, str(part.shards), str(part.samples)] for part in arrived]
        lines += aligned(["site", "split", "shards", "samples"], rows)
    lines += _encodings(state)
    return [*lines, *(f"next, {who}: {step}" for who, step in steps)]


def _is_server(terminal: Terminal, state: State) -> bool:
    """Whether this folder is a server's, by what it holds or since nobody else has joined here."""
    joined = terminal.folder.joined.is_file()
    return terminal.folder.server.is_dir() or (joined and not state.sites)


def _coordinator_line(found: CoordinatorStatus, sites: int) -> str:
    kit = "kit packed" if found.kit else "the kit is not of this version"
    returned = f", to be added: {' '.join(found.returned)}" if found.returned else ""
    return f"coordinator: {kit}, {sites} site{'s' * (sites != 1)} added{returned}"


def _encodings(state: State) -> list[str]:
    """Which sites' accepted shards have which encoding digest."""
    sites: dict[str, list[str]] = defaultdict(list)
    for site, digests in state.server.encodings.items():
        for digest in digests:
            sites[digest].append(site)
    ours = {True: "as study.yaml says", False: "not that of study.yaml"}
    return [
        f"accepted of {' '.join(names)}: encoding {digest[:16]}"
        + (f", {ours[digest == state.encoding]}" if state.encoding else "")
        for digest, names in sites.items()
    ]


def _document(state: State, steps: list[tuple[str, NextStep]]) -> dict[str, Any]:
    return {
        **state.server.document(),
        "study": state.study,
        "agreement": state.agreement,
        "encoding": state.encoding,
        "parties": [asdict(party) for party in state.parties],
        "sites": [
            {key: value for key, value in asdict(site).items() if key != "next"}
            for site in state.sites
        ],
        "coordinator": {
            "fingerprint": state.coordinator.fingerprint,
            "kit": state.coordinator.kit,
            "returned": state.coordinator.returned,
        }
        if state.coordinator
        else None,
        "next": [{"who": who, "command": step.command, "why": step.why} for who, step in steps],
    }
