"""The file study.yaml: read and checked, written with comments, edited without losing them."""

from __future__ import annotations

import io
import json
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from sltool.errors import StageOrderError, StorageError, StudyFileError
from sltool.files import write_text
from sltool.layout import StudyFolder
from sltool.mistakes import told_by_path
from sltool.study import Samples, Site, Study

SectionT = TypeVar("SectionT", bound=BaseModel)

HEADER = """\
# The agreement of one study: every site and the server hold this file and
# privacy-layer.safetensors. What stands under `dataset`, `samples`, `model` and `encoding` gives a
# feature map its meaning: a change there needs a new encoding at every site. `training` and
# `model.server` may change freely. All keys: docs/study-file.md.
"""
WIDTH = 100


def render(sections: Mapping[str, object], descriptions: Mapping[str, str]) -> str:
    """The text of a new study.yaml.

    Args:
        sections: the top-level keys in order. A tuple of `BaseModel`s becomes one mapping, in which
            each field's description stands above it as a comment.
        descriptions: the comment of each top-level key.
    """
    parts = [HEADER]
    for name, value in sections.items():
        parts.append("\n" + _comment(descriptions[name], 0))
        if isinstance(value, tuple):
            fields = "".join(_fields(section, 2) for section in value)
            parts.append(f"{name}:\n{fields}")
        else:
            parts.append(f"{name}: {_scalar(value)}\n")
    return "".join(parts)


def _fields(section: BaseModel, indent: int) -> str:
    parts = []
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        parts.append(_comment(field.description or "", indent))
        if isinstance(value, BaseModel):
            parts.append(f"{' ' * indent}{name}:\n{_fields(value, indent + 2)}")
        else:
            parts.append(
                f"{' ' * indent}{name}: {_scalar(section.model_dump(mode='json')[name])}\n"
            )
    return "".join(parts)


def _comment(text: str, indent: int) -> str:
    pad = " " * indent + "# "
    return "".join(f"{pad}{line}\n" for line in textwrap.wrap(text, WIDTH - len(pad)))


def _scalar(value: Any) -> str:
    # JSON is YAML's flow style; bare words read better where YAML cannot mistake them.
    if isinstance(value, str) and value.replace("-", "").replace("_", "").isalpha():
        return value if value.lower() not in _YAML_WORDS else json.dumps(value)
    return json.dumps(value, ensure_ascii=False)


_CORRECT = "correct the file, or take it from another site of the study"
_YAML_WORDS = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}


def add_sites(path: Path, sites: Mapping[str, Site]) -> None:
    """Enter sites into study.yaml; all else in it, comments too, stays as it is.

    Raises:
        StorageError: the file could not be read or written.
    """
    with _editing(path) as content:
        listed = content.setdefault("sites", {})
        if hasattr(listed, "fa"):
            listed.fa.set_block_style()
        for name, site in sites.items():
            listed[name] = site.model_dump(mode="json", exclude_defaults=True)


def replace_samples(path: Path, samples: Samples) -> None:
    """Bring the `samples` section up to date after a change of the dataset's settings.

    Raises:
        StorageError: the file could not be read or written.
    """
    with _editing(path) as content:
        _update(content["samples"], samples.model_dump(mode="json"))


def _update(old: Any, new: dict[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, dict):
            _update(old[key], value)
        else:
            old[key] = value


@contextmanager
def _editing(path: Path) -> Iterator[Any]:
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 10_000
    yaml.representer.add_representer(
        type(None), lambda dumper, _: dumper.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    try:
        content = yaml.load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StorageError.of(error, path, "read") from error
    yield content
    text = io.StringIO()
    yaml.dump(content, text)
    write_text(path, text.getvalue(), public=True)


def load_study(folder: StudyFolder) -> Study:
    """Read and check `study.yaml`.

    Raises:
        StageOrderError: there is none.
        StudyFileError: a key or value is wrong; the message has its path and what is allowed.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    path = folder.study_file
    if not path.is_file():
        raise StageOrderError(
            "there is no study here",
            where=path,
            expected="a folder with a study.yaml",
            hint="run `sltool prepare DATASET` here, or point --study at the study's folder",
        )
    try:
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StorageError.of(error, path, "read") from error
    except (YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise StudyFileError(
            f"study.yaml is not valid YAML: {error}", where=path, hint=_CORRECT
        ) from error
    if not isinstance(content, dict):
        raise StudyFileError("study.yaml is not a mapping of keys", where=path, hint=_CORRECT)
    return validate(Study, content, where=path)


def validate(
    schema: type[SectionT], content: Any, *, where: str | Path, prefix: str = ""
) -> SectionT:
    """`schema(**content)`, with mistakes told by their path in study.yaml.

    Raises:
        StudyFileError: on the first mistakes, with the nearest key or the allowed values.
    """
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        raise told_by_path(schema, error, where, prefix) from None
