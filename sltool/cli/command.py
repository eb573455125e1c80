"""What all commands share: several values after one option, common options, one way to print."""

from __future__ import annotations

import functools
import inspect
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from sltool.cli import completion
from sltool.cli.interrupt import UNCHANGED, StoppedError, ctrl_c
from sltool.cli.layout import aligned, columns_of, fit_help, print_wrapped, wrapped
from sltool.progress import Advance, RichProgress
from sltool.study.layout import StudyFolder

if TYPE_CHECKING:
    from sltool.api import Study


# The key of a context's `meta` under which the command line is kept as it was typed.
WORDS = "sltool.words"


class ManyValues(TyperCommand):
    """Lets an option that may be repeated take several values at once: `--sites A B`.

    A word behind them that is an argument's stays the argument's: where values have a form
    (KEY=VALUE) a word without it is none; where they have not, an argument that nobody gave
    elsewhere is the last word. A PATH is one value alone.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[WORDS] = list(args)
        return super().parse_args(ctx, _Words(self.params).repeat(args))

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Also the second and later values of an option: `--sites A <TAB>`."""
        open_option = _Words(self.params).open_option(ctx.meta.get(WORDS, []))
        if open_option is not None and not incomplete.startswith("-"):
            found: list[Any] = open_option.shell_complete(ctx, incomplete)
            return found
        return super().shell_complete(ctx, incomplete)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        fit_help(formatter)
        super().format_help(ctx, formatter)

    def format_usage(self, ctx: Any, formatter: Any) -> None:
        fit_help(formatter)
        super().format_usage(ctx, formatter)


class Group(TyperGroup):
    """A group of commands, whose help fits a narrow terminal."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        fit_help(formatter)
        super().format_help(ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        if not fit_help(formatter):
            super().format_commands(ctx, formatter)
            return
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, of.get_short_help_str(1000)) for name, of in self.commands.items()]
            )


class _Words:
    """The words of a command line, told apart into options, their values and arguments."""

    def __init__(self, params: Sequence[Any]) -> None:
        self._options = {
            name: param for param in params for name in (*param.opts, *param.secondary_opts)
        }
        arguments = [param for param in params if param.param_type_name == "argument"]
        self._variadic = any(param.nargs < 0 for param in arguments)
        self._arguments = len(arguments)

    def repeat(self, args: list[str]) -> list[str]:
        """`--sites A B` -> `--sites A --sites B`."""
        words: list[str] = []
        # Where `words` has an option that was put in front of a further value without a form.
        repeated: list[int] = []
        given = 0
        rest = iter(args)
        option: str | None = None
        for arg in rest:
            if arg == "--":
                behind = list(rest)
                words, given = [*words, arg, *behind], given + len(behind)
            elif arg.startswith("-"):
                words.append(arg)
                option = arg if self._is_multiple(arg) else None
                if self._takes_value(arg):
                    words += [value for value in (next(rest, None),) if value is not None]
            elif option and self._is_value(option, arg, given):
                if "=" not in self._form(option):
                    repeated.append(len(words))
                words += [option, arg]
            else:
                words.append(arg)
                option, given = None, given + 1
        if given < self._arguments and not self._variadic and repeated:
            del words[repeated[-1]]
        return words

    def open_option(self, args: list[str]) -> Any | None:
        """The option that the next word would be a value of; None if it would be of none.

        Bash takes `--run=x` for three words.
        """
        words = [word for word in args if word != "="]
        names = [word for word in words if word.startswith("-")]
        if not names or not self._takes_value(names[-1]):
            return None
        further = words[-1] != names[-1]
        if further and not (self._is_multiple(names[-1]) and self._form(names[-1]) != "PATH"):
            return None
        return self._options[names[-1]]

    def _is_multiple(self, name: str) -> bool:
        return bool(getattr(self._options.get(name), "multiple", False))

    def _takes_value(self, name: str) -> bool:
        option = self._options.get(name)
        return option is not None and not option.is_flag and not option.count

    def _form(self, name: str) -> str:
        return self._options[name].metavar or ""

    def _is_value(self, name: str, word: str, given: int) -> bool:
        form = self._form(name)
        if "=" in form:
            return "=" in word
        # Arguments without a limit stand together: before the option, or behind its first value.
        return form != "PATH" and (not self._variadic or given > 0)


@dataclass
class Terminal:
    """How a command talks: results on stdout, everything else on stderr. A `Progress`."""

    study: Path = field(default_factory=Path)
    as_json: bool = False
    quiet: bool = False
    verbose: bool = False
    _document: dict[str, Any] | None = None

    @functools.cached_property
    def _rich(self) -> RichProgress:
        return RichProgress(verbose=self.verbose)

    @property
    def folder(self) -> StudyFolder:
        """The study's folder."""
        return StudyFolder(self.study)

    def open_study(self) -> Study:
        """The study in the folder, which reports here.

        Raises:
            StageOrderError: there is none.
        """
        from sltool.api import Study

        return Study.open(self.study, progress=self)

    @contextmanager
    def bar(self, what: str, total: int, done: int = 0) -> Iterator[Advance]:
        """A progress bar on stderr; nothing where stderr is no terminal."""
        if self.quiet or not sys.stderr.isatty():
            # Without importing rich, which takes a tenth of a second.
            yield lambda steps: None
            return
        with self._rich.bar(what, total, done) as advance:
            yield advance

    def note(self, text: str) -> None:
        if not self.quiet:
            self._say(f"note: {text}")

    def detail(self, text: str) -> None:
        if self.verbose:
            self._say(text)

    def _say(self, text: str) -> None:
        if sys.stderr.isatty() and "rich" in sys.modules:
            # A bar may stand where the line goes.
            for line in wrapped(text, columns_of(sys.stderr)):
                self._rich.line(line)
        else:
            # Importing rich would take a tenth of a second of a server's start.
            print_wrapped(text, sys.stderr)

    def result(self, document: dict[str, Any], *lines: str) -> None:
        """What the command found: one JSON document, or lines for people.

        With `--json` it is printed when the command ends: an error that comes later takes its
        place, so that there is never more than one document.
        """
        if self.as_json:
            assert self._document is None, "a command has one result"
            self._document = document
        elif not self.quiet:
            for line in lines:
                print_wrapped(line, sys.stdout)

    def table(self, document: dict[str, Any], head: list[str], rows: list[list[str]]) -> None:
        """As `result`, for people as an aligned table; the first column is left-aligned."""
        self.result(document, *aligned(head, rows))

    def finish(self) -> None:
        """Print the document: the command has done its work, which Ctrl-C stops no more."""
        ctrl_c.ignore()
        if self._document is not None:
            print(json.dumps(self._document, indent=2, allow_nan=False), flush=True)


StudyOption = Annotated[
    Path,
    typer.Option(
        "--study", metavar="DIR", show_default=False, help="The study's folder. Default: this one."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Print errors and nothing else.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", help="Say more on stderr.")]
PluginsOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugins-dir", metavar="PATH", help="Plug-in files or folders to load (trusted code)."
    ),
]

SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything random.")]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="NAME",
        autocompletion=completion.devices,
        help="auto, cpu, cuda or cuda:N.",
    ),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Do it again, though it is done.")]
SitesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--sites",
        metavar="NAME",
        autocompletion=completion.sites,
        help="One or more. Default: all.",
    ),
]

_COMMON = {
    "study": (StudyOption, Path()),
    "as_json": (JsonOption, False),
    "quiet": (QuietOption, False),
    "verbose": (VerboseOption, False),
    "plugins_dir": (PluginsOption, None),
}


def command(
    app: typer.Typer, name: str, *, kept: str = UNCHANGED
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add a command. Its first parameter is the `Terminal` that the common options make.

    Args:
        kept: what it leaves behind when Ctrl-C stops it, as a sentence.
    """

    def add(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def run(**options: Any) -> None:
            ctrl_c.kept = kept
            common = {key: options.pop(key) for key in _COMMON}
            _load_plugins(common.pop("plugins_dir"), terminal := Terminal(**common))
            with _finished(terminal):
                function(terminal, **options)

        signature = inspect.signature(function, eval_str=True)
        own = list(signature.parameters.values())[1:]
        shared = [
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
            for key, (kind, default) in _COMMON.items()
        ]
        keyword_only = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own]
        run.__signature__ = inspect.Signature([*keyword_only, *shared])  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in [*own, *shared]}
        del run.__wrapped__
        app.command(name, cls=ManyValues)(run)
        return function

    return add


@contextmanager
def _finished(terminal: Terminal) -> Iterator[None]:
    """Print the command's document, unless an error takes its place."""
    try:
        yield
    except typer.Exit:
        terminal.finish()
        raise
    except KeyboardInterrupt as stop:
        # Not typer's: it would end without a word.
        terminal.finish()
        raise StoppedError from stop
    terminal.finish()


def _load_plugins(paths: list[Path] | None, terminal: Terminal) -> None:
    from sltool.registry import broken_plugins, load_plugins

    load_plugins(paths or [])
    for plugin in broken_plugins:
        terminal.note(f"the plug-in {plugin.origin} could not be loaded: {plugin.reason}")


def one_or_all(terminal: Terminal, site: str | None, hint: str) -> list[str]:
    """The site that was named, or all whose private data lies in this folder."""
    from sltool.errors import StageOrderError

    names = [site] if site else terminal.folder.site_names()
    if not names:
        raise StageOrderError(
            "there is no site's data here", where=terminal.folder.sites, hint=f"run `{hint}` first"
        )
    return names


def only_site(terminal: Terminal, site: str | None) -> str:
    """The site that was named, or the only one that joined or has its data in this folder.

    Raises:
        StageOrderError: there is none.
        UsageError: there are several, and none was named.
    """
    from sltool.errors import StageOrderError, UsageError

    folder = terminal.folder
    names = [site] if site else folder.site_folders()
    if not names:
        raise StageOrderError(
            "there is no site here", where=folder.sites, hint="run `sltool join KIT --site NAME`"
        )
    if len(names) > 1:
        raise UsageError(f"there are several sites here: {', '.join(names)}", hint="give --site")
    return names[0]


def human_bytes(size: float) -> str:
    """1536 -> '1.5 KiB'."""
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
