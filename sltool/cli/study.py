"""`sltool study`: what the coordinator of a study does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sltool.cli import completion
from sltool.cli.command import Group, Terminal, command
from sltool.cli.prepare import LayerSeedOption, RecipeOption, SettingsOption


def add_to(app: typer.Typer) -> None:
    study = typer.Typer(
        cls=Group, help="Make a study, with or without data.", rich_markup_mode=None
    )
    command(study, "new", kept="study.yaml and the privacy layer are kept once made")(new)
    command(study, "kit")(kit)
    command(study, "add", kept="a site is added whole or not at all")(add)
    app.add_typer(study, name="study")


def new(
    terminal: Terminal,
    dataset: Annotated[
        str,
        typer.Argument(autocompletion=completion.datasets, help="As in `sltool list datasets`."),
    ],
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

    For a coordinator who has no patients. `sltool study kit` then packs both for the sites and the
    server.
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
        "read study.yaml, then pack both for the sites and the server: `sltool study kit`",
    )


def kit(
    terminal: Terminal,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="FILE", help="Default: study-kit.zip in the study's folder."),
    ] = None,
) -> None:
    """Pack the study for its sites and the server: one signed file.

    A ZIP archive with study.yaml, the privacy layer and a leaflet for the people at a site. The
    key that signs it is made on first use, in coordinator/key; it never leaves this folder.
    """
    from sltool.models.privacy_layer_file import awaits_fit

    study = terminal.open_study()
    made = study.kit(to)
    if awaits_fit(study.folder.privacy_layer, study.settings):
        terminal.note(
            "its privacy layer has not been fitted, and no site encodes with it: run `sltool "
            "fit-privacy-layer --source PATH` on public data first, or let one site fit it and "
            "put its two files into a new kit"
        )
    terminal.result(
        {
            "file": str(made.file),
            "study": made.study,
            "agreement": made.agreement,
            "coordinator": {"key": made.coordinator, "fingerprint": made.fingerprint},
        },
        f"made {made.file}: version {made.agreement[:16]} of study {made.study}",
        f"it is signed with the key in {made.key_file}, whose fingerprint is",
        f"  {made.fingerprint}",
        f"send it to the sites, who run `sltool join {made.file.name} --site NAME`; read the "
        "fingerprint out when they call",
    )


def add(
    terminal: Terminal,
    file: Annotated[Path, typer.Argument(help="NAME.pub, from a site that joined.")],
) -> None:
    """Add a site that joined to study.yaml.

    Checks that it joined this version of the study. The comments in study.yaml stay.
    """
    added = terminal.open_study().add_site(file)
    terminal.result(
        {
            "site": added.site,
            "key": added.key,
            "fingerprint": added.fingerprint,
            "agreement": added.agreement,
            "again": added.again,
        },
        f"site {added.site} {'was listed before' if added.again else 'is now listed'} in "
        f"{terminal.folder.study_file}; it has version {added.agreement[:16]}, as this folder",
        "the fingerprint of its key, to compare with what the site reads out:",
        f"  {added.fingerprint}",
        "the server needs the site too: run the same command there, or hand it a new kit",
    )
