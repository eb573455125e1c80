"""`sltool fit-privacy-layer`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sltool.cli import completion
from sltool.cli.command import DeviceOption, ForceOption, Terminal, command
from sltool.wording import plural

if TYPE_CHECKING:
    from sltool.site.fit_stage import FittedLayer


def add_to(app: typer.Typer) -> None:
    command(app, "fit-privacy-layer", kept="the privacy layer is replaced whole or not at all")(
        fit_privacy_layer
    )


def fit_privacy_layer(
    terminal: Terminal,
    site: Annotated[
        str | None,
        typer.Option(
            "--site",
            metavar="NAME",
            autocompletion=completion.sites,
            help="Fit on this site's training samples.",
        ),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--source", metavar="PATH", help="Fit on public data in the dataset's layout."
        ),
    ] = None,
    auxiliary: Annotated[
        Path | None,
        typer.Option(
            "--auxiliary", metavar="DIR", help="Fit on a folder of public images without labels."
        ),
    ] = None,
    bits: Annotated[
        int | None,
        typer.Option(
            "--bits",
            metavar="N",
            help="Bits of each value: 8, 4, 2, 1; 0: not quantised. Default: as in study.yaml, if "
            "it has a code; else 8.",
        ),
    ] = None,
    channels: Annotated[
        int | None,
        typer.Option(
            "--channels",
            min=1,
            help="Channels of the code; values of a table's. Default: as in study.yaml, if it has "
            "a code; else 4, tables 2.",
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            "--size", min=1, help="Its height and width. Default: as in study.yaml, else 1."
        ),
    ] = None,
    widths: Annotated[
        list[int] | None,
        typer.Option(
            "--widths",
            min=1,
            metavar="N",
            help="Channels of the convolutions before it, a table's dense layers. Default: as in "
            "study.yaml, if it has a code; else 16 32 64 128, tables 64 64.",
        ),
    ] = None,
    halve: Annotated[
        Literal["stride", "pool"] | None,
        typer.Option(
            "--halve",
            help="How these halve an image: a stride of 2, or max pooling, which costs more and is "
            "more accurate. Default: as in study.yaml, if it has a code; else pool.",
        ),
    ] = None,
    noise: Annotated[
        float | None,
        typer.Option(
            "--noise",
            min=0,
            help="Standard deviation of the noise; values are from -1 to 1. Default: as in "
            "study.yaml; if that has neither a code nor noise, 0.2.",
        ),
    ] = None,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Passes over the samples.")] = 100,
    weight: Annotated[
        float,
        typer.Option(
            "--weight",
            min=0,
            help="Weight of the success of a decoder that is fitted at the same time; for codes of "
            "hundreds of bits. Default: 0, no such decoder.",
        ),
    ] = 0.0,
    distance_weight: Annotated[
        float,
        typer.Option(
            "--distance-weight",
            min=0,
            help="Weight of the distance correlation of samples and codes.",
        ),
    ] = 0.0,
    device: DeviceOption = "auto",
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", min=0, metavar="N", help="Repeatable. Default: from the system's entropy."
        ),
    ] = None,
    force: ForceOption = False,
) -> None:
    """Fit the privacy layer to a short code, before any site encodes.

    Writes privacy-layer.safetensors and the settings of its code in study.yaml: both are for all
    sites and the server. A layer that was fitted on a site's samples may tell something about them.
    """
    from sltool.api import Study

    done = Study.open(terminal.study, progress=terminal).fit_privacy_layer(
        site=site,
        source=source,
        auxiliary=auxiliary,
        bits=bits,
        channels=channels,
        size=size,
        widths=widths,
        halve=halve,
        noise=noise,
        epochs=epochs,
        weight=weight,
        distance_weight=distance_weight,
        device=device,
        seed=seed,
        force=force,
    )
    terminal.note(_origin(done))
    terminal.result(
        {
            "fitted_on": done.site or "public data",
            "samples": done.samples,
            "code": done.code.model_dump(mode="json"),
            "bits": done.bits,
            "noise": done.noise,
            "bytes_per_sample": done.bytes,
            "task": round(done.fit.task, 4),
            "adversary_leak": None if done.fit.leak is None else round(done.fit.leak, 4),
            "seconds": round(done.seconds, 1),
        },
        f"fitted on {plural(done.samples, 'sample')} of {_where(done)}, in {done.seconds:.0f} s: "
        f"{plural(done.bytes, 'byte')} a sample; on these samples: {done.fit.describe()}",
        "next: hand study.yaml and privacy-layer.safetensors to every site; after client-encode, "
        "`sltool audit` measures what leaks",
    )


def _where(done: FittedLayer) -> str:
    return f"site {done.site}" if done.site else "public data"


def _origin(done: FittedLayer) -> str:
    if not done.site:
        return "the privacy layer was fitted on public data, so that it tells nothing of a patient"
    return (
        f"the privacy layer was fitted on the training samples of site {done.site} and is handed "
        "to all sites and the server: it may tell something about these patients. No audit "
        "measures that, and no noise covers it; its file says so"
    )
