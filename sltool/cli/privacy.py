"""`sltool privacy`."""

from __future__ import annotations

from math import isfinite
from typing import Annotated, Any

import typer

from sltool.accounting import DELTA, Release, epsilon, noise_for
from sltool.cli import completion
from sltool.cli.command import Terminal, command, one_or_all
from sltool.errors import UsageError
from sltool.wording import plural


def add_to(app: typer.Typer) -> None:
    command(app, "privacy")(privacy)


def privacy(
    terminal: Terminal,
    clip: Annotated[
        float | None,
        typer.Option("--clip", metavar="NORM", help="encoding.clip, to try out; needs no study."),
    ] = None,
    noise: Annotated[
        float | None, typer.Option("--noise", metavar="SD", help="encoding.noise, with --clip.")
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(
            "--epsilon", metavar="E", help="Instead of --noise: which noise gives a patient this."
        ),
    ] = None,
    records: Annotated[
        int, typer.Option("--records", metavar="K", min=1, help="Records of a patient.")
    ] = 1,
    releases: Annotated[
        int,
        typer.Option(
            "--releases", metavar="N", min=1, help="Feature maps of a record: views x encodings."
        ),
    ] = 1,
    delta: Annotated[float, typer.Option("--delta", metavar="D")] = DELTA,
    site: Annotated[
        str | None,
        typer.Option(
            "--site",
            metavar="NAME",
            autocompletion=completion.sites,
            help="Without --clip: whose shards. Default: every site here.",
        ),
    ] = None,
) -> None:
    """State the differential privacy of a site's shards, or of a clip and noise to try out.

    Epsilon for delta, by dp-accounting, of one record and of a patient with several: their content
    is replaced by any other (sensitivity: twice the clip). Epochs of training cost nothing more.
    """
    if clip is not None:
        _try_out(terminal, clip, noise, target, records, releases, delta)
        return
    if noise is not None or target is not None:
        raise UsageError("--noise and --epsilon need --clip", expected="--clip 1 --noise 4")
    from sltool.api import Site

    study = terminal.open_study()
    names = one_or_all(terminal, site, "sltool partition")
    found = {name: Site(study, name).guarantee(delta) for name in names}
    documents = [{"site": name, **each.document()} for name, each in found.items()]
    lines = [f"site {name}: {text}" for name, each in found.items() for text in each.sentences()]
    terminal.result(documents[0] if len(documents) == 1 else {"sites": documents}, *lines)


def _try_out(
    terminal: Terminal,
    clip: float,
    noise: float | None,
    target: float | None,
    records: int,
    releases: int,
    delta: float,
) -> None:
    if (noise is None) == (target is None):
        raise UsageError("give one of --noise and --epsilon", expected="--clip 1 --noise 4")
    if noise is None:
        assert target is not None
        noise = noise_for(target, clip, records * releases, delta)
    if not (clip > 0 and noise > 0 and isfinite(clip * noise)):
        raise UsageError("--clip and --noise have to be positive")
    record, patient = (
        epsilon([Release(clip, noise, maps)], delta) for maps in (releases, records * releases)
    )
    document: dict[str, Any] = {
        "clip": clip,
        "noise": noise,
        "delta": delta,
        "sensitivity": 2 * clip,
        "releases": releases,
        "records": records,
        "epsilon_record": record,
        "epsilon_patient": patient,
    }
    lines = [
        f"encoding.clip={clip:g} encoding.noise={noise:.6g}",
        f"delta {delta:g}, {plural(releases, 'feature map')} of a record, sensitivity "
        f"{2 * clip:g}: a record's content is replaced by any other",
        f"epsilon {record:.4g} for a record",
    ]
    if records > 1:
        lines.append(f"epsilon {patient:.4g} for a patient with {records} records")
    terminal.result(document, *lines)
