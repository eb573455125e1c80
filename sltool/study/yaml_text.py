"""YAML with the 1.2 core schema, and edits of its text that change nothing else."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Hashable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from yaml.constructor import BaseConstructor, ConstructorError
from yaml.nodes import CollectionNode, MappingNode, Node, ScalarNode

from sltool.errors import StudyFileError

INDENT = 2
CORRECT = "correct the file, or take it from another site of the study"
# https://yaml.org/spec/1.2.2/#103-core-schema: tag, pattern, first characters.
CORE_SCHEMA = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
)


class _Loader(yaml.SafeLoader):
    """Plain values by the core schema: `yes` and `1:30` are text, 1e-3 is a number.

    A repeated key in a mapping is an error.
    """

    # PyYAML follows YAML 1.1, whose resolvers a subclass would inherit.
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[Any, int] = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in lines:
                raise ConstructorError(
                    problem=f"the key '{key}' is repeated; its first line is {lines[key]}",
                    problem_mark=key_node.start_mark,
                )
            if isinstance(key, Hashable):
                lines[key] = key_node.start_mark.line + 1
        # Not SafeLoader's own, which merges `<<`: the core schema has no such key.
        return BaseConstructor.construct_mapping(self, node, deep)


def _integer(loader: yaml.SafeLoader, node: ScalarNode) -> int:
    text = loader.construct_scalar(node)
    return int(text, 0) if text.startswith(("0o", "0x")) else int(text)


for _tag, _pattern, _first in CORE_SCHEMA:
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), _first
    )
_Loader.add_constructor("tag:yaml.org,2002:int", _integer)


def parse_yaml(text: str, *, where: str | Path, name: str = "study.yaml") -> Any:
    """The value of one YAML document.

    Args:
        where: the file or option that the text comes from.
        name: the text's name in error messages.

    Raises:
        StudyFileError: it is not YAML, or a key is repeated; the message has the line.
    """
    try:
        return copy.deepcopy(_loaded(text))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        problem = error.problem or error.context
        raise StudyFileError(
            f"{name} is not valid YAML: {line}{problem}", where=where, hint=CORRECT
        ) from error
    except (yaml.YAMLError, ValueError) as error:
        raise StudyFileError(
            f"{name} is not valid YAML: {error}", where=where, hint=CORRECT
        ) from error
    except RecursionError as error:
        raise StudyFileError(
            f"{name} is nested too deeply",
            where=where,
            hint=CORRECT,
        ) from error


# A command reads the same study.yaml a few times, and the parser is slow.
@lru_cache(maxsize=4)
def _loaded(text: str) -> Any:
    # _Loader is a subclass of SafeLoader.
    return yaml.load(text, _Loader)  # noqa: S506


def plain(value: Any) -> str:
    """A JSON value on one line, as YAML."""
    # JSON is YAML's flow style; words are left unquoted if every YAML reader reads them as text.
    if isinstance(value, str) and value.replace("-", "").replace("_", "").isalpha():
        return value if value.lower() not in _YAML_WORDS else json.dumps(value)
    return json.dumps(value, ensure_ascii=False)


_YAML_WORDS = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}


class _Edit(NamedTuple):
    """A replacement of the characters [start, end) of a text."""

    start: int
    end: int
    text: str


def add_entries(text: str, section: str, entries: Mapping[str, Any]) -> str:
    """Add entries to the mapping under the top-level key `section`, which may be missing.

    Nothing is deleted except the braces of an empty mapping.

    Args:
        text: a valid YAML document, a mapping.
        entries: JSON values, by their new keys.
    """
    root = yaml.compose(text, _Loader)
    assert isinstance(root, MappingNode)
    key, value = _find(root, section)
    inner = json.dumps(entries, ensure_ascii=False)[1:-1]
    if key is None or not isinstance(value, MappingNode):
        if root.flow_style:
            return _edited(text, [_into_flow(text, root, f"{json.dumps(section)}: {{{inner}}}")])
        lines = [f"{section}:", *_block(entries, INDENT, INDENT)]
        return _edited(text, [_new_lines(text, root.end_mark.index, lines)])
    if _stays_flow(root, value):
        return _edited(text, [_into_flow(text, value, inner)])
    if not value.flow_style:
        return _edited(text, [_into_block(text, value, entries)])
    start, end = value.start_mark.index, value.end_mark.index
    lines = _block(entries, key.start_mark.column + INDENT, INDENT)
    empty = _Edit(len(text[:start].rstrip(" ")), end, "")
    return _edited(text, [empty, _new_lines(text, end, lines)])


def replace_values(text: str, section: str, values: Mapping[str, Any]) -> str:
    """Replace the differing values under the top-level key `section`.

    Keys that the text does not have, and lists that contain comments, are skipped.

    Args:
        text: a valid YAML document, a mapping.
        values: JSON values; in a mapping each key is replaced separately.
    """
    root = yaml.compose(text, _Loader)
    assert isinstance(root, MappingNode)
    old = parse_yaml(text, where=section)
    return _edited(text, list(_replaced(text, root, {section: values}, old)))


def _replaced(
    text: str, node: MappingNode, values: Mapping[str, Any], old: Mapping[str, Any]
) -> Iterator[_Edit]:
    for name, value in values.items():
        _, found = _find(node, name)
        if found is None or old[name] == value:
            continue
        if isinstance(value, Mapping) and isinstance(found, MappingNode):
            yield from _replaced(text, found, value, old[name])
            continue
        start, end = found.start_mark.index, _end(text, found)
        if "#" in text[start:end] and "\n" in text[start:end]:
            continue
        # A block sequence may begin in its key's own column, where a flow sequence may not.
        block = isinstance(found, CollectionNode) and not found.flow_style
        yield _Edit(start, end, " " * INDENT * block + plain(value))


def _find(mapping: MappingNode, name: str) -> tuple[ScalarNode | None, Node | None]:
    for key, value in mapping.value:
        if isinstance(key, ScalarNode) and key.value == name:
            return key, value
    return None, None


def _stays_flow(root: MappingNode, value: MappingNode) -> bool:
    """Whether entries go between the braces of `value`; an empty `{}` becomes a block."""
    one_line = value.start_mark.line == value.end_mark.line
    return bool(value.flow_style) and bool(root.flow_style or value.value or not one_line)


def _into_flow(text: str, mapping: MappingNode, inner: str) -> _Edit:
    if mapping.value:
        end = _end(text, mapping.value[-1][1])
        return _Edit(end, end, f", {inner}")
    start = text.index("{", mapping.start_mark.index) + 1
    return _Edit(start, start, inner)


def _into_block(text: str, mapping: MappingNode, entries: Mapping[str, Any]) -> _Edit:
    last_key, last = mapping.value[-1]
    column = last_key.start_mark.column
    inside = isinstance(last, MappingNode) and not last.flow_style and last.value
    indent = last.value[0][0].start_mark.column - column if inside else INDENT
    end = _end(text, last)
    # Comments below the last entry with its indentation belong to it.
    comments = re.compile(rf"[^\n]*(\n {{{column},}}#[^\n]*)*").match(text, end)
    return _new_lines(text, comments.end() if comments else end, _block(entries, column, indent))


def _block(entries: Mapping[str, Any], column: int, indent: int) -> list[str]:
    lines = []
    for name, entry in entries.items():
        if not isinstance(entry, Mapping):
            lines.append(f"{' ' * column}{name}: {plain(entry)}")
            continue
        lines.append(f"{' ' * column}{name}:")
        lines += [f"{' ' * (column + indent)}{key}: {plain(value)}" for key, value in entry.items()]
    return lines


def _new_lines(text: str, index: int, lines: list[str]) -> _Edit:
    """Insert whole lines below the line of `index`."""
    newline = "\r\n" if "\r\n" in text else "\n"
    before = text[:index]
    if not before.endswith("\n"):
        line_end = text.find("\n", index)
        index = len(text) if line_end < 0 else line_end + 1
    start = "" if text[:index].endswith("\n") else newline
    return _Edit(index, index, start + newline.join([*lines, ""]))


def _end(text: str, node: Node) -> int:
    """The end of a node's text; the end mark of a block comes after its comments."""
    if isinstance(node, CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(text, last[1] if isinstance(node, MappingNode) else last)
    return len(text[: node.end_mark.index].rstrip())


def _edited(text: str, edits: list[_Edit]) -> str:
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    return text
