"""What a shell offers at TAB: names of datasets, models, metrics, sites, runs, columns.

At each TAB a process starts. So names are read from source text and folders, nothing large is
imported, and no plug-in is run. What cannot be read offers nothing: no error disturbs the line.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import typer

from sltool.study.layout import StudyFolder

# Set by the shells' scripts; its value is what they ask for.
VARIABLE = "_SLTOOL_COMPLETE"
# A test compares them with `sltool.experiments.arms`, whose import takes seconds.
ARMS = (
    "multi",
    "pooled",
    "single",
    "single:A",
    "federated",
    "federated-stateless",
    "online",
    "boosting",
    "formulas",
    "friedewald",
    "martin-hopkins",
    "sampson",
)
Completer = Callable[[typer.Context], list[str]]


def is_asked() -> bool:
    """Whether a shell asks this process for completions, or for its script."""
    return VARIABLE in os.environ


def answer(app: Any) -> int:
    """Answer the shell; returns the exit code."""
    try:
        app(prog_name="sltool")
    except Exception:  # noqa: BLE001 - a message would end up in the line that is being typed
        return 1
    return 0


def _quiet(find: Callable[[typer.Context], Iterable[str]]) -> Completer:
    """A completer that offers nothing where its names cannot be read."""

    @functools.wraps(find)
    def completer(ctx: typer.Context) -> list[str]:
        try:
            return list(find(ctx))
        except Exception:  # noqa: BLE001 - a message would end up in the line being typed
            return []

    return completer


def _registered(kind: str) -> Completer:
    @_quiet
    def completer(ctx: typer.Context) -> Iterable[str]:
        from sltool.registry import registries

        return registries[kind].names(ctx.params.get("plugins_dir") or ())

    return completer


def words(*known: str) -> Completer:
    """A completer of words that never change."""

    @_quiet
    def completer(ctx: typer.Context) -> Iterable[str]:
        return known

    return completer


datasets, metrics = _registered("datasets"), _registered("metrics")
devices = words("auto", "cpu", "cuda")
recipes = words("best", "paper", "private")
arms = words(*ARMS)
operating_points = words("sensitivity=", "specificity=")
site_weights = words("proportional", "equal")
sweeps = words("sites=", "ratios=", "skew=", "quantity-skew=", "cut=", "noise=", "epochs=")


@_quiet
def cases(ctx: typer.Context) -> Iterable[str]:
    """The cases of `reproduce`."""
    from sltool.experiments.cases import CASES, PRIVACY

    return [*CASES, PRIVACY]


@_quiet
def sites(ctx: typer.Context) -> Iterable[str]:
    """Sites whose folder is here, and those that study.yaml lists."""
    folder = _folder(ctx)
    return sorted({*folder.site_folders(), *_value(folder, "sites")})


@_quiet
def runs(ctx: typer.Context) -> Iterable[str]:
    """The runs that have begun."""
    return _folder(ctx).run_names()


@_quiet
def held(ctx: typer.Context) -> Iterable[str]:
    """Shards that wait for a person's approval."""
    return sorted(path.name for path in _folder(ctx).quarantine.glob("*.h5"))


@_quiet
def classes(ctx: typer.Context) -> Iterable[str]:
    """The classes of the study's labels."""
    return list(map(str, _value(_folder(ctx), "samples", "labels", "classes")))


@_quiet
def column_names(ctx: typer.Context) -> Iterable[str]:
    """'bmi=' for each column that the study asks for."""
    folder = _folder(ctx)
    headers = dict(_value(folder, "dataset", "headers"))
    agreed = [headers.pop(name, name) for name in _value(folder, "dataset", "columns")]
    people = [*headers.values(), _value(folder, "dataset", "patient")]
    return [f"{name}=" for name in dict.fromkeys([*agreed, *filter(None, people)])]


@_quiet
def source_columns(ctx: typer.Context) -> Iterable[str]:
    """The columns of the prepared source, or else what the study says of its columns."""
    folder = _folder(ctx)
    if folder.source_columns.is_file():
        from sltool.files import read_json

        return read_json(folder.source_columns, list[str], "the list of columns", "")
    columns = _value(folder, "dataset", "columns")
    site = ["site"] if _value(folder, "dataset", "headers", "site") else []
    if not isinstance(columns, dict):
        return site
    return [*site, *(name for name, column in columns.items() if "categories" in column)]


@_quiet
def settings(ctx: typer.Context) -> Iterable[str]:
    """'model.cut=' for each key of study.yaml that `--set` takes."""
    from sltool.cli.study_keys import setting_keys

    folder, given = _folder(ctx), ctx.params.get("settings") or ()
    named = dict(pair.split("=", 1) for pair in given if "=" in pair)
    dataset = ctx.params.get("dataset") or _value(folder, "dataset", "name")
    model = named.get("model.name") or _value(folder, "model", "name")
    plugins = ctx.params.get("plugins_dir") or ()
    return [f"{key}=" for key in setting_keys(dataset or "", model or "", plugins)]


def _folder(ctx: typer.Context) -> StudyFolder:
    return StudyFolder(Path(ctx.params.get("study") or "."))


def _value(folder: StudyFolder, *keys: str) -> Any:
    """A value of study.yaml, which is not checked here; () where there is none."""
    from sltool.study.yaml_text import parse_yaml

    if not folder.study_file.is_file():
        return ()
    found = parse_yaml(folder.study_file.read_text(encoding="utf-8"), where=folder.study_file)
    for key in keys:
        found = (found or {}).get(key)
    return found or ()
