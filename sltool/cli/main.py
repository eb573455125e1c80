"""The program: its commands, and the one place where errors are printed."""

from __future__ import annotations

import atexit
import gc
import io
import json
import sys
import traceback
from functools import cache
from typing import NoReturn

import typer
from typer._click.core import Command
from typer._click.exceptions import ClickException

from sltool.cli import (
    audit,
    client_encode,
    compare,
    completion,
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
from sltool.cli.command import Group
from sltool.cli.interrupt import EXIT_CODE, StoppedError, ctrl_c, wants_json
from sltool.cli.layout import print_wrapped
from sltool.errors import MissingPackageError, SltoolError, UsageError

app = typer.Typer(
    name="sltool",
    help="Train one model on the data of many hospitals without sharing an image or a record.",
    epilog="Exit codes: 0 done, 2 wrong usage, 3 bad input data, 4 a shard was refused, "
    "5 not trusted, 6 the study does not match, 7 training diverged, 130 stopped by Ctrl-C, "
    "1 a fault of ours.",
    cls=Group,
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


def _version(ctx: typer.Context, show: bool) -> None:
    if show and not ctx.resilient_parsing:
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
    sys.exit(_exit_code())


def _exit_code() -> int:
    """Run the command line; the one place where errors are printed."""
    if completion.is_asked():
        return completion.answer(app)
    try:
        return _program_command()(prog_name="sltool", standalone_mode=False) or 0
    except SltoolError as error:
        return _fail(error)
    except ClickException as error:
        return _fail(_mistyped(error))
    except ModuleNotFoundError as error:
        missing = MissingPackageError.of(error)
        return _fault() if missing is None else _fail(missing)
    except StoppedError:
        print_wrapped(ctrl_c.line(), sys.stderr)
        return EXIT_CODE
    except Exception:  # noqa: BLE001 - the last resort: whatever else is raised is our fault
        return _fault()


@cache
def _program_command() -> Command:
    """The program as click runs it; made once, although a process may call `main` again."""
    return typer.main.get_command(app)


def _mistyped(error: ClickException) -> SltoolError:
    """A command line that cannot be parsed, as an error of ours."""
    context = getattr(error, "ctx", None)
    usage = context.get_usage().removeprefix("Usage: ") if context else ""
    path = context.command_path if context else "sltool"
    return UsageError(
        error.format_message(),
        expected=" ".join(usage.split()),
        hint=f"`{path} --help` describes the options",
    )


def _fail(error: SltoolError) -> int:
    """Print an error for people, and with `--json` as the document; returns the exit code."""
    print_wrapped(f"error: {error}", sys.stderr)
    if wants_json(sys.argv):
        facts = dict(error.details())
        document = {"error": error.what, "exit_code": error.exit_code, **facts}
        print(json.dumps(document, indent=2))
    return error.exit_code


def _fault() -> int:
    traceback.print_exc()
    return _fail(SltoolError("this is a fault of sltool; please report the lines above"))


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
