"""The program: its commands, and the one place where errors are printed."""

from __future__ import annotations

import atexit
import gc
import io
import sys
import traceback
from typing import NoReturn

import typer

from sltool.cli import (
    audit,
    client_encode,
    compare,
    enroll,
    evaluate,
    export,
    fit_privacy_layer,
    inspect,
    join,
    list_,
    log,
    partition,
    predict,
    prepare,
    privacy,
    queue,
    report,
    reproduce,
    resolve,
    server_keys,
    server_train,
    ship,
    status,
    study,
    withdraw,
)
from sltool.errors import MissingPackageError, SltoolError

app = typer.Typer(
    name="sltool",
    help="Train one model on the data of many hospitals without sharing an image or a record.",
    epilog="Exit codes: 0 done, 2 wrong usage, 3 bad input data, 4 a shard was refused, "
    "5 not trusted, 6 the study does not match, 7 training diverged, 1 a fault of ours.",
    add_completion=False,
    pretty_exceptions_enable=False,
    # Plain help: importing rich's renderer would double the time of `sltool --help`.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (
    study,
    join,
    prepare,
    partition,
    fit_privacy_layer,
    client_encode,
    audit,
    inspect,
    privacy,
    ship,
    server_train,
    evaluate,
    export,
    compare,
    predict,
    resolve,
    report,
    reproduce,
    status,
    log,
    queue,
    enroll,
    server_keys,
    withdraw,
    list_,
):
    module.add_to(app)


def _version(show: bool) -> None:
    if show:
        from sltool.version import __version__

        print(f"sltool {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _program(
    ctx: typer.Context,
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version and exit."
    ),
) -> None:
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())


def main() -> NoReturn:
    """Run the command line and exit with the documented code."""
    _collect_seldom()
    _print_any_text()
    try:
        app()
    except SltoolError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        missing = MissingPackageError.of(error)
        if missing is None:
            _end_with_fault()
        print(f"error: {missing}", file=sys.stderr)
        sys.exit(missing.exit_code)
    except KeyboardInterrupt:
        print("stopped; run the command again to go on", file=sys.stderr)
        sys.exit(130)
    except Exception:  # noqa: BLE001 - the last resort: whatever else is raised is our fault
        _end_with_fault()
    sys.exit(0)


def _end_with_fault() -> NoReturn:
    traceback.print_exc()
    print("error: this is a fault of sltool; please report the lines above", file=sys.stderr)
    sys.exit(SltoolError.exit_code)


def _print_any_text() -> None:
    """Print letters that the terminal's encoding lacks, such as a code page, as their escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _collect_seldom() -> None:
    """Spare the search for garbage among modules: with torch, a third of a short command's time.

    Most of what a short command makes are modules, and they stay. Garbage of a long one is found
    while it is young; what has grown old is looked through more seldom than by default, and not
    once more at the end of the process.
    """
    gc.set_threshold(10_000, 30, 30)
    atexit.register(gc.freeze)
