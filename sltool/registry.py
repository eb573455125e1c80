"""Names -> datasets, models, metrics and the attackers of `audit`.

Built-ins, installed packages (entry points `sltool.datasets`, `sltool.models`, `sltool.metrics`,
`sltool.attackers`) and plug-in files (`--plugins-dir`, `SLTOOL_PLUGINS`) all register in the same
way:

    from sltool.registry import datasets

    @datasets.register("my-dataset")
    class MyDataset(Dataset): ...

Nothing is loaded from the current folder implicitly.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from sltool.errors import UnknownNameError, UsageError
from sltool.names import check_name

T = TypeVar("T")
Registered = TypeVar("Registered")

PLUGINS_VARIABLE = "SLTOOL_PLUGINS"

_origin: ContextVar[str | None] = ContextVar("origin", default=None)


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One registered object.

    `origin` says where it comes from: 'built-in', a distribution and its version, or a file.
    `facts` are the keyword arguments of its registration.
    """

    name: str
    object: T
    origin: str
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The first line of the object's docstring."""
        return (inspect.getdoc(self.object) or "").split("\n", 1)[0]


@dataclass(frozen=True)
class BrokenPlugin:
    """A plug-in that could not be loaded, and the reason."""

    origin: str
    reason: str


class Registry(Generic[T]):
    """The registered objects of one kind ('dataset', 'model', 'metric' or 'attacker')."""

    def __init__(self, kind: str, builtins: tuple[str, ...]) -> None:
        self.kind = kind
        self.group = f"sltool.{kind}s"
        self._builtins = builtins
        self._entries: dict[str, Entry[T]] = {}
        self._waiting: dict[str, importlib.metadata.EntryPoint] | None = None
        self.broken: list[BrokenPlugin] = []

    def register(self, name: str, **facts: Any) -> Callable[[Registered], Registered]:
        """A decorator that registers an object under `name`.

        Args:
            facts: properties of the object (for metrics, see `sltool.metrics`).

        Raises:
            UsageError: the name is not valid, or is taken; the message has both origins.
        """

        def add(registered: Registered) -> Registered:
            origin = _origin_of(registered)
            self._check_free(name, origin)
            self._entries[name] = Entry(name, registered, origin, facts)  # type: ignore[arg-type]
            return registered

        return add

    def get(self, name: str) -> T:
        """The object of this name.

        Raises:
            UnknownNameError: there is none.
        """
        return self.entry(name).object

    def entry(self, name: str) -> Entry[T]:
        """The entry of this name.

        Raises:
            UnknownNameError: there is none; the message has the nearest name and all names.
        """
        self._load_builtins(name)
        if name not in self._entries and name in self._entry_points():
            self._load_entry_point(name)
        if name in self._entries:
            return self._entries[name]
        raise UnknownNameError.of(
            self.kind, name, [*self._entries, *self._entry_points()], hint=self._advice()
        )

    def entries(self) -> list[Entry[T]]:
        """All entries, sorted by name. Loads every plug-in of this kind."""
        self._load_builtins()
        for name in list(self._entry_points()):
            self._load_entry_point(name)
        return [self._entries[name] for name in sorted(self._entries)]

    def names(self, paths: Iterable[Path] = ()) -> list[str]:
        """The registered names as their source text has them: nothing is imported or run.

        Args:
            paths: further plug-in files and folders, as for `load_plugins`.
        """
        found = {name for _, names in self._names_in_sources(paths) for name in names}
        points = importlib.metadata.entry_points(group=self.group)
        return sorted({*found, *(point.name for point in points)})

    def source_file(self, name: str, paths: Iterable[Path] = ()) -> Path | None:
        """The file that registers a name, likewise; None if none of sltool's or of `paths` does."""
        found = self._names_in_sources(paths)
        return next((path for path, names in found if name in names), None)

    def _names_in_sources(self, paths: Iterable[Path]) -> Iterator[tuple[Path, list[str]]]:
        pattern = re.compile(rf"^@{self.kind}s\.register\(\s*[\"']([^\"']+)", re.MULTILINE)
        for path in (*map(_source_of, self._builtins), *_existing_files(plugin_paths(paths))):
            yield path, pattern.findall(path.read_text("utf-8"))

    def _load_builtins(self, name: str | None = None) -> None:
        """Import only the module of the built-in `name`, if it has its own module, or else all."""
        own = self._module_of(name) if name else None
        with _set_origin("built-in"):
            for module in (own,) if own else self._builtins:
                importlib.import_module(module)

    def _module_of(self, name: str) -> str | None:
        """The built-in module of a name: `sltool.datasets.covid_ct` for 'covid-ct'."""
        last = name.replace("-", "_")
        modules = (module for module in self._builtins if module.rpartition(".")[2] == last)
        return next(modules, None)

    def _entry_points(self) -> dict[str, importlib.metadata.EntryPoint]:
        if self._waiting is None:
            self._waiting = {}
            for point in importlib.metadata.entry_points(group=self.group):
                self._check_free(point.name, _distribution(point))
                self._waiting[point.name] = point
        return self._waiting

    def _check_free(self, name: str, origin: str) -> None:
        check_name(self.kind, name)
        taken = None
        if name in self._entries:
            taken = self._entries[name].origin
        elif self._module_of(name):
            taken = "built-in"
        elif self._waiting and name in self._waiting:
            taken = _distribution(self._waiting[name])
        if taken is not None and taken != origin:
            raise UsageError(
                f"two {self.kind}s are called '{name}'",
                where=f"{taken} and {origin}",
                hint="rename one of them, or uninstall or leave out one of the plug-ins",
            )

    def _load_entry_point(self, name: str) -> None:
        point = self._entry_points()[name]
        origin = _distribution(point)
        with _record_failure(origin, self.broken), _set_origin(origin):
            loaded = point.load()
            if name not in self._entries:
                self._entries[name] = Entry(name, loaded, origin)
        del self._entry_points()[name]

    def _advice(self) -> str:
        broken = [*self.broken, *broken_plugins]
        if broken:
            return "a plug-in could not be loaded: " + "; ".join(
                f"{plugin.origin}: {plugin.reason}" for plugin in broken
            )
        return f"`sltool list {self.kind}s` describes them"


def _origin_of(registered: Any) -> str:
    """The origin of an object; not of its importer, since a plug-in may import a built-in first."""
    if registered.__module__.startswith("sltool."):
        return "built-in"
    return _origin.get() or inspect.getsourcefile(inspect.unwrap(registered)) or "?"


def _distribution(point: importlib.metadata.EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.value


@contextmanager
def _set_origin(origin: str) -> Iterator[None]:
    token = _origin.set(origin)
    try:
        yield
    finally:
        _origin.reset(token)


@contextmanager
def _record_failure(origin: str, broken: list[BrokenPlugin]) -> Iterator[None]:
    """Record the failure of a plug-in in `broken`, so that sltool can go on without it."""
    try:
        yield
    except UsageError:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a plug-in may raise anything
        broken.append(BrokenPlugin(origin, f"{type(error).__name__}: {error}"))


datasets: Registry[Any] = Registry(
    "dataset",
    (
        "sltool.datasets.cholesterol",
        "sltool.datasets.cifar10",
        "sltool.datasets.covid_ct",
        "sltool.datasets.image_folder",
        "sltool.datasets.mura",
        "sltool.datasets.table",
    ),
)
models: Registry[Any] = Registry(
    "model",
    (
        "sltool.models.covid_cnn",
        "sltool.models.mlp",
        "sltool.models.resnet",
        "sltool.models.timm_model",
        "sltool.models.vgg19",
    ),
)
metrics: Registry[Any] = Registry("metric", ("sltool.metrics",))
attackers: Registry[Any] = Registry(
    "attacker",
    (
        "sltool.site.audit.attackers.closed_form",
        "sltool.site.audit.attackers.ridge",
        "sltool.site.audit.attackers.patch_ridge",
        "sltool.site.audit.attackers.conv_decoder",
        "sltool.site.audit.attackers.dense_decoder",
        "sltool.site.audit.attackers.all_views",
        "sltool.site.audit.attackers.public",
        "sltool.site.audit.attackers.optimisation",
        "sltool.site.audit.attackers.linkage",
        "sltool.site.audit.attackers.membership",
        "sltool.site.audit.attackers.attributes",
    ),
)
registries: dict[str, Registry[Any]] = {
    "datasets": datasets,
    "models": models,
    "metrics": metrics,
    "attackers": attackers,
}

broken_plugins: list[BrokenPlugin] = []
_loaded_files: set[Path] = set()


def load_plugins(paths: list[Path]) -> None:
    """Run the plug-in files of the given files and folders, and of `SLTOOL_PLUGINS`.

    A file that fails is recorded in `broken_plugins`; the others are still loaded.

    Raises:
        UsageError: a path does not exist, or a name is taken.
    """
    for path in plugin_paths(paths):
        for file in _plugin_files(path):
            if file not in _loaded_files:
                _loaded_files.add(file)
                with _record_failure(str(file), broken_plugins), _set_origin(str(file)):
                    _run_file(file)


def plugin_paths(paths: Iterable[Path]) -> list[Path]:
    """These files and folders, and those of `SLTOOL_PLUGINS`."""
    variable = os.environ.get(PLUGINS_VARIABLE, "")
    return [*paths, *(Path(part) for part in variable.split(os.pathsep) if part)]


def loaded_plugins() -> list[Path]:
    """The plug-in files loaded by this process, so that a worker process can load the same."""
    return sorted(_loaded_files)


def _plugin_files(path: Path) -> list[Path]:
    if not path.exists():
        raise UsageError("there is no such plug-in file or folder", where=path)
    files = sorted(path.glob("*.py")) if path.is_dir() else [path]
    return [file.resolve() for file in files]


def _existing_files(paths: Iterable[Path]) -> list[Path]:
    return [file for path in paths if path.exists() for file in _plugin_files(path)]


def _source_of(module: str) -> Path:
    """The file of a module, which is not imported."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)


def _run_file(file: Path) -> None:
    name = f"sltool_plugin_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError("not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
