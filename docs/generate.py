"""Writes the reference pages that follow from the code: `make docs`. A test keeps them true."""

from __future__ import annotations

import importlib
import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from sltool.registry import datasets, metrics, models
from sltool.study.schema import Section, Study

DOCS = Path(__file__).resolve().parent
# Of a signature.
WIDTH = 80
NOTE = "<!-- Made by `make docs` from the code; do not edit. -->\n"


def pages() -> dict[str, str]:
    """File name -> text of every generated page."""
    return {
        "cli.md": cli(),
        "study-file.md": study_file(),
        "metrics.md": metrics_page(),
        "api.md": api(),
    }


def cli() -> str:
    """Every command's help, as the program prints it."""
    parts = [f"# Command line\n\n{NOTE}\n```text\n{_help()}```\n"]
    for name in _commands():
        parts.append(f"## sltool {name}\n\n```text\n{_help(*name.split())}```\n")
    return "\n".join(parts)


def _help(*command: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "sltool", *command, "--help"],
        cwd=DOCS.parent,
        env={**os.environ, "COLUMNS": "80", "PYTHONPATH": str(DOCS.parent)},
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def _commands() -> Iterator[str]:
    """'prepare', ..., 'queue approve': every command that can be typed."""
    import typer

    from sltool.cli.main import app

    def walk(group: Any, prefix: str) -> Iterator[str]:
        for name, command in group.commands.items():
            yield f"{prefix}{name}"
            if hasattr(command, "commands"):
                yield from walk(command, f"{prefix}{name} ")

    yield from walk(typer.main.get_command(app), "")


def study_file() -> str:
    """Every key of study.yaml."""
    parts = [
        f"# study.yaml\n\n{NOTE}\n"
        "`sltool prepare` writes the file; people edit it. `dataset`, `samples`, `model` (but for\n"
        "`model.server`) and `encoding` are covered by the *encoding digest*, with the study's\n"
        "id and the bytes of `privacy-layer.safetensors`: each shard bears that digest, and the\n"
        "server refuses any other. Everything else may change at any time.\n"
    ]
    for name, field in Study.model_fields.items():
        parts.append(f"## {name}\n\n{field.description}\n")
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            parts.append(_table(field.annotation))
    for title, registry in (("dataset", datasets), ("model", models)):
        for entry in registry.entries():
            parts.append(f"## {title}: {entry.name}\n\n{entry.summary}\n")
            if entry.object.Settings.model_fields:
                parts.append(_table(entry.object.Settings))
    return "\n".join(parts)


def _table(section: type[BaseModel]) -> str:
    rows = ["| key | default | what |", "| --- | --- | --- |"]
    rows += [f"| `{key}` | {default} | {what} |" for key, default, what in _rows(section, "")]
    return "\n".join(rows) + "\n"


def _rows(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str]]:
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Section):
            yield from _rows(inner, f"{prefix}{name}.")
        else:
            default = "" if field.is_required() else f"`{field.get_default()!r}`"
            yield f"{prefix}{name}", default.replace("|", "\\|"), field.description or ""


def metrics_page() -> str:
    """Every metric with its equation."""
    rows = ["| name | for | better | what |", "| --- | --- | --- | --- |"]
    for one in metrics.entries():
        kinds = ", ".join(one.facts["kinds"])
        summary = one.summary.replace("|", "\\|")
        rows.append(f"| `{one.name}` | {kinds} | {one.facts['better']} | {summary} |")
    return f"# Metrics\n\n{NOTE}\n" + "\n".join(rows) + "\n"


def api() -> str:
    """Every public name of `import sltool`, with its signature and docstring."""
    import sltool

    parts = [f"# Python\n\n{NOTE}\n{inspect.getdoc(importlib.import_module('sltool.api'))}\n"]
    for name in sltool.__all__:
        kind = getattr(sltool, name)
        if not inspect.isclass(kind):
            continue
        parts.append(f"## sltool.{name}\n\n{_verbatim(kind)}")
        parts += [f"### {name}.{member}\n\n{text}" for member, text in _members(name, kind)]
    return "\n".join(parts)


def _members(name: str, kind: type) -> Iterator[tuple[str, str]]:
    inherited = {own: value for base in kind.__mro__[1:-1] for own, value in vars(base).items()}
    for member, value in (vars(kind) | inherited).items():
        if member.startswith("_"):
            continue
        value = getattr(value, "__func__", value)
        if isinstance(value, property):
            yield member, _verbatim(value)
        elif inspect.isfunction(value):
            call = _signature(f"{name}.{member}", value)
            yield member, f"```python\n{call}\n```\n\n{_verbatim(value)}"


class _Bare(str):
    """An annotation, which a signature shows without quotes."""

    __repr__ = str.__str__


def _signature(name: str, function: Callable[..., object]) -> str:
    """How a method is called, without `self`; a line for each parameter if it is long."""
    signature = inspect.signature(function)
    parameters = [
        parameter.replace(annotation=_Bare(parameter.annotation))
        for parameter in [*signature.parameters.values()][1:]
    ]
    returned = _Bare(signature.return_annotation)
    shown = f"{name}{signature.replace(parameters=parameters, return_annotation=returned)}"
    if len(shown) <= WIDTH:
        return shown
    for parameter in parameters:
        shown = shown.replace(f" {parameter}", f"\n    {parameter}", 1)
    return shown.replace("(", "(\n    ", 1).replace(f") -> {returned}", f"\n) -> {returned}")


def _verbatim(documented: object) -> str:
    return f"```text\n{inspect.getdoc(documented)}\n```\n"


if __name__ == "__main__":
    for file, text in pages().items():
        (DOCS / file).write_text(text, encoding="utf-8")
