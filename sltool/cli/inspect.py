"""`sltool inspect`."""

from __future__ import annotations

import shutil
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sltool.cli.command import Terminal, command, human_bytes
from sltool.wording import plural

if TYPE_CHECKING:
    from sltool.site.inspection import Inspection

# Of the samples that are read, so many are shown in a terminal.
SHOWN = 2
TILE = 16
WIDEST = 100


def add_to(app: typer.Typer) -> None:
    command(app, "inspect")(inspect)


def inspect(
    terminal: Terminal,
    shard: Annotated[Path, typer.Argument(help="A shard (.h5), also as it was sent (.h5.age).")],
    png: Annotated[
        Path | None, typer.Option("--png", metavar="FILE", help="Write the pictures there too.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page with all of it.")
    ] = None,
    identity: Annotated[
        Path | None,
        typer.Option(
            "--identity", metavar="FILE", help="For an encrypted file. Default: server/identity."
        ),
    ] = None,
) -> None:
    """Show what is in a shard, before or after it has left the hospital.

    Who signed it, samples and labels, feature maps as pictures (beside the originals where those
    are in this folder), what the audit found, and what it does not contain. The exit code is that
    of a check that did not pass.
    """
    from sltool.api import Study
    from sltool.site.inspection import write_page, write_png

    found = Study(terminal.study, progress=terminal).inspect(shard, identity=identity)
    facts = _facts(found)
    terminal.result(_document(found, shard), *_lines(found, facts, shard))
    if png is not None:
        write_png(found, png)
    if html is not None:
        write_page(found, html, facts)
    for path in (png, html):
        if path is not None and found.originals is not None:
            terminal.note(f"{path} shows patients: it stays in the hospital")
    if error := found.shard.error:
        terminal.note(f"a check did not pass: {error.what}")
        raise typer.Exit(error.exit_code)


def _facts(found: Inspection) -> list[tuple[str, str]]:
    """Title and text of each fact."""
    shard, content = found.shard, found.shard.manifest.content
    place = shard.manifest.place
    facts = [
        (
            "what",
            f"feature maps of {plural(shard.manifest.samples, f'{place.split} sample')} of site "
            f"{place.site} (number {place.sequence}, from 0); {human_bytes(shard.bytes)}",
        )
    ]
    marks = {True: "yes: ", False: "NO: ", None: "unknown: "}
    facts += [(check.name, marks[check.passed] + check.text) for check in shard.checks]
    if shard.rows is None or shard.features is None:
        return facts
    shape = " x ".join(map(str, content.feature_shape))
    clip = f", clipped to the norm {content.noise.clip:g}" if content.noise.clip else ""
    noise = f"noise of standard deviation {content.noise.sd:g}" if content.noise.sd else "no noise"
    views = f", {content.views} for each sample" if content.views > 1 else ""
    patients = plural(shard.patients, "patient")
    examinations = f", {plural(shard.examinations, 'examination')}" if shard.examinations else ""
    return [
        *facts,
        ("samples", f"of {patients}{examinations}, under random pseudonyms"),
        ("labels", _labels(found)),
        (
            "feature map",
            f"{shape} numbers ({content.dtype}){views}; from {shard.features.low:.3g} to "
            f"{shard.features.high:.3g}, {shard.features.zeros:.0%} are zero; {noise}{clip}",
        ),
        ("audit", found.audit),
    ]


def _labels(found: Inspection) -> str:
    if not found.labels:
        return "none: these are cases to be predicted"
    if found.shard.manifest.content.label == "regression":
        return ", ".join(f"{name} {value:.4g}" for name, value in found.labels.items())
    total = sum(found.labels.values())
    shares = [f"{name} {count} ({count / total:.0%})" for name, count in found.labels.items()]
    return ", ".join(shares) + "; unchanged, as the server needs them"


def _lines(found: Inspection, facts: list[tuple[str, str]], path: Path) -> list[str]:
    from sltool.site.inspection import STILL

    columns = min(shutil.get_terminal_size().columns, WIDEST)
    width = max(len(name) for name, _ in facts) + 2
    lines = [str(path)]
    for name, text in facts:
        lines += textwrap.wrap(
            f"{name:<{width}}{text}", columns, subsequent_indent=" " * width, break_long_words=False
        )
    lines += ["", *_pictures(found, columns), "It does not contain"]
    for text in found.not_contained:
        lines += textwrap.wrap(f"- {text}", columns, subsequent_indent="  ")
    return [*lines, *textwrap.wrap(STILL, columns)]


def _pictures(found: Inspection, columns: int) -> list[str]:
    from sltool.cli.blocks import beside, blocks, has_colour
    from sltool.site.inspection import tiles

    if found.shard.features is None:
        return []
    most = max(1, (columns + 1) // (TILE + 1))
    colour = has_colour()
    lines = []
    for index in range(min(SHOWN, len(found.shard.features.shown))):
        shown = tiles(found, index)[:most]
        lines.append(" ".join(f"{title:<{TILE}}" for title, _ in shown).rstrip())
        lines += beside([blocks(tile, TILE, colour) for _, tile in shown], TILE)
        lines.append("")
    return lines


def _document(found: Inspection, path: Path) -> dict[str, Any]:
    shard, features = found.shard, found.shard.features
    return {
        "file": str(path),
        "bytes": shard.bytes,
        "manifest": shard.manifest.model_dump(mode="json"),
        "digest": shard.manifest.digest,
        "checks": [
            {"name": check.name, "passed": check.passed, "text": check.text}
            for check in shard.checks
        ],
        "samples": shard.manifest.samples,
        "patients": shard.patients if shard.rows else None,
        "examinations": shard.examinations if shard.rows else None,
        "labels": found.labels,
        "features": {"low": features.low, "high": features.high, "zeros": features.zeros}
        if features
        else None,
        "originals": found.originals is not None,
        "audit": found.audit,
        "not_contained": found.not_contained,
    }
