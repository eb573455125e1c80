"""`sltool study`: what the coordinator of a study does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sltool.cli.command import Terminal, command
from sltool.cli.prepare import LayerSeedOption, RecipeOption, SettingsOption


def add_to(app: typer.Typer) -> None:
    study = typer.Typer(help="Make a study, with or without data.", rich_markup_mode=None)
    command(study, "new")(new)
    app.add_typer(study, name="study")


def new(
    terminal: Terminal,
    dataset: Annotated[str, typer.Argument(help="As in `sltool list datasets`.")],
    source: Annotated[
        Path | None,
        typer.Option(
            "--source",
            metavar="PATH",
            help="Settings of the dataset follow from its layout; no sample is read.",
        ),
    ] = None,
    recipe: RecipeOption = None,
    samples: Annotated[
        int | None,
        typer.Option(
            "--samples",
            min=1,
            metavar="N",
            help="Training samples that all sites expect together: the recipe fits "
            "training.epochs and training.batch_size to them. Default: 2000.",
        ),
    ] = None,
    settings: SettingsOption = None,
    seed: LayerSeedOption = None,
) -> None:
    """Make a study without reading any data: study.yaml and the privacy layer.

    For a coordinator who has no patients. Hand both files to every site and to the server; each
    site then runs `sltool prepare --source` on its own data.
    """
    from sltool.coordinator.create import make_study
    from sltool.coordinator.recipes import ASSUMED_SAMPLES

    folder = terminal.folder
    study, notes = make_study(
        folder,
        dataset,
        source,
        settings or [],
        seed,
        False,
        terminal,
        recipe=recipe,
        samples=samples or ASSUMED_SAMPLES,
    )
    for note in notes:
        terminal.note(note)
    files = [folder.study_file, folder.privacy_layer]
    terminal.result(
        {"study": study.id, "dataset": study.dataset.name, "files": [str(path) for path in files]},
        f"made {files[0]} and {files[1]}",
        "read study.yaml, then hand both files to every site and to the server",
    )
