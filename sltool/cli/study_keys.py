"""The keys of study.yaml for a shell's TAB, from the source text of their schemas.

Importing the schemas would take longer than a person waits.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path

from sltool.registry import Registry, registries

SCHEMA = "sltool.study.schema"
# Not settings of a new study, or written by commands.
NOT_SET = {"format", "id", "recipe", "samples", "server", "sites", "name"}
# A class, and the file that defines it.
Found = tuple[Path, ast.ClassDef]


def setting_keys(dataset: str, model: str, plugins: Iterable[Path]) -> list[str]:
    """'model.cut', ... for `--set`: the study's own keys, and those of this dataset and model.

    Args:
        dataset, model: names; '': not known.
        plugins: further plug-in files and folders.
    """
    schema = _find(_source(SCHEMA), "Study")
    keys = [] if schema is None else [*_keys(*schema)]
    for section, name in (("dataset", dataset), ("model", model)):
        settings = _settings(registries[f"{section}s"], name, plugins)
        keys += [] if settings is None else _keys(*settings, f"{section}.")
    unset = {key for key in keys if key.partition(".")[0] in NOT_SET}
    return sorted({*keys} - unset - {"dataset.name"})


def _settings(registry: Registry[object], name: str, plugins: Iterable[Path]) -> Found | None:
    """The class `Settings` of what is registered under a name."""
    path = registry.source_file(name, plugins) if name else None
    if path is None:
        return None
    for node in _tree(path).body:
        if isinstance(node, ast.ClassDef) and _is_registered(node, name):
            inner = (part for part in node.body if isinstance(part, ast.ClassDef))
            return next(((path, part) for part in inner if part.name == "Settings"), None)
    return None


def _is_registered(node: ast.ClassDef, name: str) -> bool:
    return any(
        isinstance(decorator, ast.Call)
        and any(isinstance(arg, ast.Constant) and arg.value == name for arg in decorator.args)
        for decorator in node.decorator_list
    )


def _keys(path: Path, schema: ast.ClassDef, prefix: str = "") -> Iterator[str]:
    """The fields of a schema and of its bases; those of a section are below its own key."""
    for base in schema.bases:
        found = _find(path, base.id) if isinstance(base, ast.Name) else None
        if found is not None:
            yield from _keys(*found, prefix)
    for field in schema.body:
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        section = _section(path, field.annotation)
        key = f"{prefix}{field.target.id}"
        if section is None:
            yield key
        else:
            yield from _keys(*section, f"{key}.")


def _section(path: Path, annotation: ast.expr) -> Found | None:
    """The schema that a field is of: `Code` or `Code | None`."""
    if isinstance(annotation, ast.BinOp):
        return _section(path, annotation.left)
    return _find(path, annotation.id) if isinstance(annotation, ast.Name) else None


def _find(path: Path, name: str) -> Found | None:
    """A class that a file defines or imports from sltool; None for anything else."""
    for node in _tree(path).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return path, node
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sltool."):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _find(_source(str(node.module)), alias.name)
    return None


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def _source(module: str) -> Path:
    """The file of a module, which is not imported."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(module)
    return Path(spec.origin)
