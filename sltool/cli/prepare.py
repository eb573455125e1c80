"""`sltool prepare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sltool.cli import completion
from sltool.cli.command import ForceOption, Terminal, command
from sltool.cli.layout import aligned
from sltool.errors import UsageError
from sltool.machine import available_cpus
from sltool.wording import plural

if TYPE_CHECKING:
    from sltool.coordinator.create import Scale

SHOWN = 10


SettingsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="A study.yaml key of a new study: model.cut=2."
    ),
]
RecipeOption = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="NAME",
        autocompletion=completion.recipes,
        help="Settings of a new study: best (the default); paper, its Table 4; private, a layer "
        "that fit-privacy-layer fits next, and limits for ship. A plug-in may have others.",
    ),
]
LayerSeedOption = Annotated[
    int | None,
    typer.Option(
        "--seed",
        min=0,
        metavar="N",
        help="Draw the privacy layer from N: repeatable, and public. Default: from the "
        "system's entropy, and not kept. A --synthetic source follows from N, or 0.",
    ),
]


def add_to(app: typer.Typer) -> None:
    command(app, "prepare", kept="study.yaml and the privacy layer are kept once made")(prepare)


def prepare(
    terminal: Terminal,
    dataset: Annotated[
        str | None,
        typer.Argument(
            autocompletion=completion.datasets,
            help="As in `sltool list datasets`; known once study.yaml is.",
        ),
    ] = None,
    source: Annotated[
        Path | None, typer.Option("--source", metavar="PATH", help="The dataset's file or folder.")
    ] = None,
    synthetic: Annotated[
        int | None,
        typer.Option(
            "--synthetic",
            metavar="N",
            min=14,
            help="Instead of a source: write a stand-in of N samples, to try the tool.",
        ),
    ] = None,
    body_part: Annotated[
        list[str] | None,
        typer.Option(
            "--body-part",
            metavar="NAME",
            help="Of a new study: the parts of the body, for datasets that have them "
            "(dataset.body_parts). Default: all.",
        ),
    ] = None,
    standardise_from: Annotated[
        Path | None,
        typer.Option(
            "--standardise-from",
            metavar="FILE",
            help="Of a new study: a public table, for agreed means and deviations.",
        ),
    ] = None,
    from_this_site: Annotated[
        bool,
        typer.Option(
            "--from-this-site",
            help="Of a new study: compute them from --source, and give them away to all.",
        ),
    ] = False,
    recipe: RecipeOption = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--column",
            metavar="NAME=HEADER",
            autocompletion=completion.column_names,
            help="What this source calls a column of the study. Kept in columns.json, here alone.",
        ),
    ] = None,
    settings: SettingsOption = None,
    workers: Annotated[
        int, typer.Option("--workers", min=0, help="Processes that decode. 0: one a core.")
    ] = 0,
    seed: LayerSeedOption = None,
    force: ForceOption = False,
) -> None:
    """Read a dataset; in an empty folder, make a study of it.

    Writes study.yaml and privacy-layer.safetensors (once), and prepared.h5, which is private.
    """
    from sltool.coordinator.create import synthetic_source
    from sltool.site.prepare_stage import prepare_study

    if synthetic and source:
        raise UsageError("--synthetic and --source exclude each other", hint="give one of them")
    if synthetic:
        source = synthetic_source(terminal.folder, dataset, synthetic, seed or 0)
    outcome = prepare_study(
        terminal.folder,
        dataset,
        source,
        [*_body_parts(body_part), *(settings or [])],
        workers or available_cpus(),
        seed,
        force,
        terminal,
        _scale(source, standardise_from, from_this_site),
        recipe,
        columns or [],
    )
    for note in outcome.notes:
        terminal.note(note)
    lines = ["already prepared (--force prepares again)"] if outcome.again else []
    if outcome.parts:
        lines += aligned(
            list(outcome.parts[0]), [list(map(str, row.values())) for row in outcome.parts]
        )
    for refused in outcome.refused[:SHOWN]:
        lines.append(f"refused {refused.record}: {refused.reason}")
    if len(outcome.refused) > SHOWN:
        lines.append(f"... and {len(outcome.refused) - SHOWN} more in {terminal.folder.refused}")
    classes = "".join(f", {count} {name}" for name, count in outcome.counts.items())
    lines.append(
        f"prepared {plural(outcome.samples, 'sample')}{classes}; {len(outcome.refused)} refused"
    )
    terminal.result(
        {
            "dataset": outcome.dataset,
            "samples": outcome.samples,
            "classes": outcome.counts,
            "parts": outcome.parts,
            "refused": [vars(refused) for refused in outcome.refused],
            "notes": outcome.notes,
        },
        *lines,
    )


def _scale(source: Path | None, public: Path | None, own: bool) -> Scale | None:
    from sltool.coordinator.create import Scale

    if public and own:
        raise UsageError(
            "--standardise-from and --from-this-site exclude each other", hint="give one of them"
        )
    if own and source is None:
        raise UsageError("--from-this-site needs a source", hint="give --source PATH")
    table = public or (source if own else None)
    return Scale(table, private=own) if table else None


def _body_parts(names: list[str] | None) -> list[str]:
    return [f"dataset.body_parts={json.dumps(names)}"] if names else []
