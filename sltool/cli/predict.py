"""`sltool predict`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sltool.cli import completion
from sltool.cli.command import DeviceOption, ForceOption, SitesOption, Terminal, command
from sltool.cli.server_train import RunOption
from sltool.errors import UsageError
from sltool.wording import plural

if TYPE_CHECKING:
    from sltool.server.evaluation.predict import SiteAnswer
    from sltool.site.resolve import Resolved


def add_to(app: typer.Typer) -> None:
    command(app, "predict", kept="answers that were written are kept")(predict)


def predict(
    terminal: Terminal,
    run: RunOption = "default",
    sites: SitesOption = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--source",
            metavar="PATH",
            help="With --site: both halves in one place, from new cases to the table of patients.",
        ),
    ] = None,
    site: Annotated[
        str | None,
        typer.Option(
            "--site",
            metavar="NAME",
            autocompletion=completion.sites,
            help="Whose cases --source holds.",
        ),
    ] = None,
    device: DeviceOption = "auto",
    force: ForceOption = False,
) -> None:
    """Answer the sites' new cases with a run's best network.

    Takes in what has arrived, and writes a signed file for each site, server/answers/SITE-....
    It is encrypted where study.yaml has the site's recipient. The site reads it with `sltool
    resolve`. --force also answers cases again that this model has answered.
    """
    study = terminal.open_study()
    if (source is None) != (site is None):
        raise UsageError("--source and --site belong together", hint="give both, or neither")
    if source is not None and site is not None:
        show_resolved(terminal, study.predict_here(run, site, source, device=device))
        return
    answers = study.predict(run, sites=sites or [], device=device, force=force)
    documents = [{**origin(answer), "file": str(answer.file)} for answer in answers]
    if not answers:
        terminal.note(f"no case waits for run '{run}' (--force answers every case again)")
    lines = [_where(answer) for answer in answers]
    lines += describe(answers[0]) if answers else []
    terminal.result({"run": run, "answers": documents}, *lines)


def show_resolved(terminal: Terminal, resolved: Resolved) -> None:
    """Print where the table is, and where its predictions come from."""
    terminal.result(
        {**origin(resolved), "file": str(resolved.file)},
        _where(resolved),
        *describe(resolved),
    )


def origin(answer: SiteAnswer | Resolved) -> dict[str, Any]:
    """Which model predicted, when, and what it was trained on, as JSON."""
    return {
        "site": answer.site,
        "cases": answer.cases,
        "run": answer.run,
        "model": answer.model,
        "made": answer.made,
        "trained_on": dict(answer.trained.sites),
        "best_epoch": answer.trained.best_epoch,
        "validation": dict(answer.trained.validation),
        "operating_points": answer.points,
    }


def _where(answer: SiteAnswer | Resolved) -> str:
    return f"site {answer.site}: {plural(answer.cases, 'case')}, in {answer.file}"


def describe(answer: SiteAnswer | Resolved) -> list[str]:
    """The same for people."""
    trained = answer.trained
    samples = sum(trained.sites.values())
    figures = ", ".join(
        f"{name.replace('_', ' ')} {value:.4g}"
        for name, value in trained.validation.items()
        if name.startswith("validation")
    )
    points = ", ".join(answer.points)
    return [
        f"model: run {answer.run}, epoch {trained.best_epoch} ({answer.model[:12]}), "
        f"predictions of {answer.made}",
        f"trained on {plural(samples, 'sample')} of {plural(len(trained.sites), 'site')} "
        f"({' '.join(trained.sites)})"
        + (f"; {figures}" if figures else "; without validation samples"),
        f"decisions: at {points}" if points else "decisions: none, the run has no operating point",
    ]
