"""`sltool client-encode`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sltool.cli import completion
from sltool.cli.command import (
    DeviceOption,
    ForceOption,
    Terminal,
    command,
    human_bytes,
    one_or_all,
)
from sltool.errors import UsageError
from sltool.wording import plural

if TYPE_CHECKING:
    from sltool.site.encode import EncodingResult


def add_to(app: typer.Typer) -> None:
    command(app, "client-encode", kept="the shards that are complete are kept")(client_encode)


def client_encode(
    terminal: Terminal,
    site: Annotated[
        str | None,
        typer.Option(
            "--site",
            metavar="NAME",
            autocompletion=completion.sites,
            help="Default: every site here.",
        ),
    ] = None,
    shard_mib: Annotated[
        int,
        typer.Option("--shard-mib", min=1, max=1024, help="Feature maps in a shard, at most."),
    ] = 256,
    purpose: Annotated[
        Literal["training", "prediction"],
        typer.Option(
            "--for", help="prediction: new cases of --source, whose labels are not known."
        ),
    ] = "training",
    source: Annotated[
        Path | None,
        typer.Option("--source", metavar="PATH", help="With --for prediction: the new cases."),
    ] = None,
    workers: Annotated[
        int,
        typer.Option("--workers", min=0, help="Processes that decode --source. 0: one a core."),
    ] = 0,
    device: DeviceOption = "auto",
    backend: Annotated[
        Literal["auto", "torch", "numpy", "onnxruntime"],
        typer.Option("--backend", help="What computes the layer. auto: torch where installed."),
    ] = "auto",
    force: ForceOption = False,
) -> None:
    """Run the privacy layer over a site's samples.

    Writes signed shards to outbox/SITE: what may leave the hospital. They are pseudonymised
    personal data. For a site that has grown it adds shards of the new samples alone.

    --for prediction encodes new cases straight from --source, with pseudonyms of their own in
    sites/SITE/prediction. They never enter training; `sltool predict` at the server answers them.
    """
    from sltool.api import Site
    from sltool.site.guarantee import stated_guarantee

    study = terminal.open_study()
    if (purpose == "prediction") != (source is not None):
        raise UsageError(
            "--for prediction and --source belong together",
            hint="for training, `sltool prepare` and `partition` read the source",
        )
    if source is not None:
        if site is None:
            raise UsageError("whose cases are these?", hint="give --site NAME")
        cases = Site(study, site).encode_cases(
            source,
            device=device,
            workers=workers,
            shard_bytes=shard_mib * 2**20,
            force=force,
            backend=backend,
        )
        terminal.result(_document(cases), _cases_line(cases, terminal))
        return
    done = [
        Site(study, name).encode(
            device=device, shard_bytes=shard_mib * 2**20, force=force, backend=backend
        )
        for name in one_or_all(terminal, site, "sltool partition")
    ]
    guarantees = [
        stated_guarantee(terminal.folder, study.settings, encoded.site, terminal)
        for encoded in done
    ]
    documents, lines = [], []
    for encoded, guarantee in zip(done, guarantees, strict=True):
        stated = None if guarantee is None else guarantee.document()
        documents.append({**_document(encoded), "differential_privacy": stated})
        lines += [_line(encoded, terminal), *(guarantee.sentences() if guarantee else ())]
    terminal.result(documents[0] if len(done) == 1 else {"sites": documents}, *lines)


def _document(encoded: EncodingResult) -> dict[str, Any]:
    rate = (encoded.samples if encoded.again else encoded.new_samples) / encoded.seconds
    return {
        "site": encoded.site,
        "samples": encoded.samples,
        "shards": encoded.shards,
        "bytes": encoded.bytes,
        "seconds": round(encoded.seconds, 3),
        "samples_per_second": round(rate, 1),
        "new_samples": encoded.new_samples,
        "new_shards": encoded.new_shards,
        "already_encoded": encoded.again,
        "dead_values": None if encoded.dead is None else round(encoded.dead, 4),
    }


def _cases_line(encoded: EncodingResult, terminal: Terminal) -> str:
    if encoded.again:
        return f"site {encoded.site}: these cases were encoded before (--force encodes them again)"
    return (
        f"site {encoded.site}: {plural(encoded.samples, 'case')} to predict in "
        f"{plural(encoded.shards, 'shard')}, "
        f"{human_bytes(encoded.bytes)}, in {terminal.folder.site(encoded.site).outbox}"
    )


def _line(encoded: EncodingResult, terminal: Terminal) -> str:
    again = "already encoded, " if encoded.again else ""
    if 0 < encoded.new_shards < encoded.shards:
        again = f"{plural(encoded.new_samples, 'new sample')} in "
        again += f"{plural(encoded.new_shards, 'shard')}; in all "
    return (
        f"site {encoded.site}: {again}{plural(encoded.samples, 'sample')} in "
        f"{plural(encoded.shards, 'shard')}, "
        f"{human_bytes(encoded.bytes)}, in {terminal.folder.site(encoded.site).outbox}"
    )
