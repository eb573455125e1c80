"""`sltool export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sltool.cli.command import DeviceOption, Terminal, command
from sltool.cli.server_train import RunOption
from sltool.wording import plural


def add_to(app: typer.Typer) -> None:
    command(app, "export", kept="the run is kept, its export is written anew")(export)


def export(
    terminal: Terminal,
    run: RunOption = "default",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="Where to write. Default: server/runs/NAME/export."
        ),
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Write a run's network as ONNX and safetensors, with a model card.

    The privacy layer, the server network, and both as one, which takes samples in the source's
    units. Each ONNX file is compared with torch. Test figures, operating points and digests are in
    README.md. Needs the extra: pip install "sltool[onnx]".
    """
    done = terminal.open_study().run(run).export(out, device=device)
    worst = max(done.differences.values())
    terminal.result(
        {
            "run": done.run,
            "folder": str(done.folder),
            "files": done.files,
            "opset": done.opset,
            "tolerance": done.tolerance,
            "differences": done.differences,
        },
        f"run {done.run}: {plural(len(done.files), 'file')} in {done.folder}; ONNX opset "
        f"{done.opset}, at most {worst:.1e} from torch (tolerance {done.tolerance:g})",
    )
