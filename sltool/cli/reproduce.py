"""`sltool reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from sltool.cli import completion
from sltool.cli.command import DeviceOption, ForceOption, SeedOption, Terminal, command
from sltool.cli.report import show
from sltool.machine import available_cpus, pick_device


def add_to(app: typer.Typer) -> None:
    command(app, "reproduce", kept="the arms that are finished are kept")(reproduce)


def reproduce(
    terminal: Terminal,
    case: Annotated[
        str,
        typer.Argument(
            autocompletion=completion.cases, help="cholesterol, covid-ct, mura, cifar10 or privacy."
        ),
    ],
    source: Annotated[
        Path | None, typer.Option("--source", metavar="PATH", help="The dataset's file or folder.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Default: reproduction/CASE.")
    ] = None,
    arms: Annotated[
        list[str] | None,
        typer.Option(
            "--arms",
            metavar="NAME",
            autocompletion=completion.arms,
            help="multi, single:A, single:1 (the first site), pooled, federated, federated:5 "
            "(rounds), federated-stateless, online, boosting, friedewald, martin-hopkins, sampson; "
            "formulas and single stand for several. Default: the case's.",
        ),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            "--sweep",
            metavar="KEY=VALUES",
            autocompletion=completion.sweeps,
            help="sites=3,10,30,100, skew=0.1,1,iid, quantity-skew=0.5,iid, ratios=7:2:1,1:1:1, "
            "cut=0..4, noise=0,0.5 or a study.yaml key. Several make a grid: sites=10 "
            "skew=0.1,iid. privacy: layer=random,dp-8 ...",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many, from --seed on.")] = 5,
    ratios: Annotated[
        str | None, typer.Option("--ratios", metavar="N:N:N", help="Default: 7:2:1.")
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            metavar="NAME",
            autocompletion=completion.datasets,
            help="In the place of the case's; privacy: covid-ct, fracatlas or cholesterol.",
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            metavar="NAME",
            autocompletion=completion.recipes,
            help="Of the dataset. Default: the case's.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            autocompletion=completion.settings,
            help="A study.yaml key, over the recipe's.",
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", min=0, help="Processes that decode. 0: one a core.")
    ] = 0,
    audit: Annotated[
        Literal["none", "quick", "thorough"] | None,
        typer.Option(
            "--audit", help="Attack the shards of each cell. Default: quick for privacy, else none."
        ),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep each cell's study, with shards and models.")
    ] = False,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    force: ForceOption = False,
) -> None:
    """Run one of the paper's comparisons, or `privacy`: accuracy against what an attacker gets.

    Goes on where it stopped. Writes report.html, figures, results.json and results.csv in --out,
    which holds private data: it stays where the source is.
    """
    from sltool.experiments.arms import expand
    from sltool.experiments.cases import find_case
    from sltool.experiments.comparison import ComparisonPlan, run_plan
    from sltool.experiments.report import report_plan

    found = find_case(case, dataset)
    sweeps = tuple(found.sweep if sweep is None else sweep)
    plan = ComparisonPlan(
        case=found,
        dataset=dataset or found.dataset,
        recipe=recipe or found.recipe,
        source=source,
        arms=expand(arms or found.arms, sweeps),
        settings=tuple(settings or ()),
        ratios=ratios or found.ratios,
        sweeps=sweeps,
        seeds=list(range(seed, seed + seeds)),
        device=pick_device(device),
        workers=workers or available_cpus(),
        keep=keep,
        audit=found.audit if audit is None else ("" if audit == "none" else audit),
    )
    folder = out or terminal.study / "reproduction" / found.folder
    finished = run_plan(plan, folder, force, terminal)
    show(terminal, report_plan(plan, finished, folder))
