"""Reading, checking, writing and editing study.yaml; edits preserve comments."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import to_jsonable_python

from sltool.errors import StageOrderError, StorageError, StudyFileError
from sltool.files import publish
from sltool.study.layout import StudyFolder
from sltool.study.schema import Section, Site, Study
from sltool.study.validation_errors import format_validation_error
from sltool.study.yaml_text import CORRECT, add_entries, parse_yaml, plain, replace_values

SectionT = TypeVar("SectionT", bound=BaseModel)

HEADER = """\
# The agreement of a study: every site and the server have this file and
# privacy-layer.safetensors. The sections `dataset`, `samples`, `model` and `encoding` define the
# feature maps: a change there needs a new encoding at every site. `training` and
# `model.server` may change freely. All keys: docs/study-file.md.
"""
WIDTH = 100


def render(
    sections: Mapping[str, object], descriptions: Mapping[str, str], remarks: Mapping[str, str]
) -> str:
    """The text of a new study.yaml.

    Args:
        sections: the top-level keys in order. A tuple of `BaseModel`s becomes one mapping, in which
            each field's description is a comment above it.
        descriptions: the comment of each top-level key.
        remarks: 'training.epochs' -> what is added to that key's comment.
    """
    parts = [HEADER]
    for name, value in sections.items():
        parts.append("\n" + _comment(descriptions[name], 0))
        if isinstance(value, tuple):
            fields = "".join(_fields(section, 2, f"{name}.", remarks) for section in value)
            parts.append(f"{name}:\n{fields}")
        else:
            parts.append(f"{name}: {plain(value)}\n")
    return "".join(parts)


def _fields(section: BaseModel, indent: int, prefix: str, remarks: Mapping[str, str]) -> str:
    parts = []
    for name, field in type(section).model_fields.items():
        value, path = getattr(section, name), prefix + name
        comment = f"{field.description or ''} {remarks.get(path, '')}"
        parts.append(_comment(comment.strip(), indent))
        if isinstance(value, BaseModel):
            fields = _fields(value, indent + 2, f"{path}.", remarks)
            parts.append(f"{' ' * indent}{name}:\n{fields}")
        elif _is_mapping_of_sections(value):
            # A line for each section, so that it is easy to find and edit.
            content = to_jsonable_python(value).items()
            lines = [f"{' ' * (indent + 2)}{plain(key)}: {plain(item)}\n" for key, item in content]
            parts.append(f"{' ' * indent}{name}:\n{''.join(lines)}")
        else:
            parts.append(f"{' ' * indent}{name}: {plain(to_jsonable_python(value))}\n")
    return "".join(parts)


def _is_mapping_of_sections(value: object) -> bool:
    return isinstance(value, dict) and any(isinstance(item, BaseModel) for item in value.values())


def _comment(text: str, indent: int) -> str:
    pad = " " * indent + "# "
    return "".join(f"{pad}{line}\n" for line in textwrap.wrap(text, WIDTH - len(pad)))


def add_sites(path: Path, sites: Mapping[str, Site]) -> None:
    """Add sites to study.yaml; the rest of the file, including comments, is not changed.

    Raises:
        StorageError: the file could not be read or written.
        StudyFileError: the file's style cannot be edited automatically, or two names are the same
            folder on some systems.
    """
    entries = {
        name: site.model_dump(mode="json", exclude_defaults=True) for name, site in sites.items()
    }
    text = _read(path)
    study = _parsed(text, path)
    # Not from JSON, where the keys of a setting such as {1: [2, 4]} would turn into text.
    content = study.model_dump()
    content["sites"] |= {name: site.model_dump() for name, site in sites.items()}
    wanted = validate(Study, content, where=path)
    _publish_edited(path, add_entries(text, "sites", entries), wanted, f"sites: {plain(entries)}")


def replace_sections(path: Path, **sections: Section) -> None:
    """Replace the values of whole sections in study.yaml.

    Raises the errors of `add_sites`.
    """
    text = _read(path)
    wanted = _parsed(text, path).model_copy(update=sections)
    lines = []
    for name, section in sections.items():
        values = section.model_dump(mode="json")
        text = replace_values(text, name, values)
        lines.append(f"{name}: {plain(values)}")
    _publish_edited(path, text, wanted, "\n".join(lines))


def with_settings(
    path: Path, sections: Mapping[str, Mapping[str, Any]]
) -> tuple[Study, Callable[[], None]]:
    """study.yaml with other values in some sections; keys that a section lacks are added.

    Args:
        sections: JSON values by section and key.

    Returns:
        The changed study, and a function that publishes it.

    Raises:
        StorageError: the file could not be read.
        StudyFileError: a value is wrong, or the file's style cannot be edited automatically.
    """
    text = _read(path)
    wanted = _parsed(text, path).model_dump(mode="json")
    for section, values in sections.items():
        wanted[section] = {**wanted[section], **values}
        text = replace_values(text, section, values)
        present = parse_yaml(text, where=path).get(section) or {}
        text = add_entries(text, section, {k: v for k, v in values.items() if k not in present})
    study = validate(Study, wanted, where=path)
    _check_edited(path, text, study, plain(sections))
    return study, lambda: _publish(path, text)


def _publish_edited(path: Path, text: str, wanted: Study, lines: str) -> None:
    _check_edited(path, text, wanted, lines)
    _publish(path, text)


def _check_edited(path: Path, text: str, wanted: Study, lines: str) -> None:
    """Raise `StudyFileError` unless `text` parses to `wanted`; anchors can prevent that."""
    try:
        correct = _parsed(text, path) == wanted
    except StudyFileError:
        correct = False
    if not correct:
        raise StudyFileError(
            "study.yaml is written in a style that this command cannot edit",
            where=path,
            expected=lines,
            hint="enter these values by hand and run the command again",
        )


def _publish(path: Path, text: str) -> None:
    with publish(path, public=True) as part:
        # Bytes, so that line endings are not converted.
        part.write_bytes(text.encode("utf-8"))


def _read(path: Path) -> str:
    try:
        return _decoded(path.read_bytes(), path)
    except OSError as error:
        raise StorageError.of(error, path, "read") from error


def _decoded(raw: bytes, path: Path) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise StudyFileError(
            f"study.yaml is not UTF-8 text: {error}", where=path, hint=CORRECT
        ) from error


def parse_study(raw: bytes, where: Path) -> Study:
    """The study in the bytes of a study.yaml that came inside the file `where`.

    Raises:
        StudyFileError: a key or value is wrong.
    """
    return _parsed(_decoded(raw, where), where)


def _parsed(text: str, path: Path) -> Study:
    content = parse_yaml(text, where=path)
    if not isinstance(content, dict):
        raise StudyFileError("study.yaml is not a mapping of keys", where=path, hint=CORRECT)
    return validate(Study, content, where=path)


def load_study(folder: StudyFolder) -> Study:
    """Read and check `study.yaml`.

    Raises:
        StageOrderError: the file does not exist.
        StudyFileError: a key or value is wrong; the message has its path and the allowed values.
    """
    path = folder.study_file
    if not path.is_file():
        raise StageOrderError(
            "there is no study here",
            where=path,
            expected="a folder with a study.yaml",
            hint="run `sltool prepare DATASET` here, or point --study at the study's folder",
        )
    return _parsed(_read(path), path)


def validate(
    schema: type[SectionT], content: Any, *, where: str | Path, prefix: str = ""
) -> SectionT:
    """`schema(**content)`, with errors reported by their path in study.yaml.

    Raises:
        StudyFileError: the content is invalid; the message has the nearest key or allowed values.
    """
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        raise format_validation_error(schema, error, where, prefix) from None
