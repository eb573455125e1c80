"""The meaning of a table's headers and a folder's names: label, patient, split, site, classes."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field

from sltool.errors import BadDataError, StudyFileError, nearest
from sltool.study.schema import Section
from sltool.study.study_file import validate
from sltool.wording import plural

# Role -> headers that a new study uses for it, without case and punctuation.
KNOWN: dict[str, tuple[str, ...]] = {
    "file": ("file", "filename", "filepath", "path", "image", "imagename", "imagepath", "imageid"),
    "label": ("label", "class", "target", "diagnosis", "outcome", "y"),
    "patient": ("patient", "patientid", "subject", "subjectid", "personid", "person"),
    "examination": ("examination", "examinationid", "exam", "study", "studyid", "accession"),
    "split": ("split", "subset", "partition"),
    "site": ("site", "siteid", "hospital", "hospitalid", "centre", "center", "institution"),
}
SplitName = Literal["train", "validation", "test"]
KNOWN_SPLITS: dict[str, SplitName] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
# Of two classes, the one with such a name is the negative: without case and accents, in English,
# German, French, Spanish, Portuguese, Italian, Dutch, Polish and the Scandinavian languages.
NEGATIVE = re.compile(
    r"non|neg|normal|normo|healthy|benign|control|without|absent|ausent|gesund|gutartig|kontroll"
    r"|unauffallig|temoin|saudavel"
    r"|(not?|nicht|keine?|ohne|sans|sin|senza|sem|geen|zonder)[ _-]"
    r"|(0|-|false|falsch|faux|falso|no?|nein|nao|nej|nei|nee|nie|saine?|san[oa]|well|alive|survived"
    r"|survivor|lebend|vivant|vivo)$"
)
# If neither has, the one with such a name is the positive.
POSITIVE = re.compile(
    r"(1|\+|yes|y|true|ja|j|oui|si|sim|tak|pos|positive|present|cases?|ill|sick|diseased?|malignant"
    r"|abnormal|dead|died|deceased|death|event)$"
)
SHOWN = 10


class People(Section):
    """The headers of a sample's patient, examination, split and site."""

    patient: str | None = Field(
        default=None, description="Header of the patient. null: each sample is its own patient."
    )
    examination: str | None = Field(default=None, description="Header of the examination.")
    split: str | None = Field(default=None, description="Header of the source's own split.")
    site: str | None = Field(default=None, description="Header of the hospital.")


def _as_lists(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {str(k): v if isinstance(v, list | tuple) else (v,) for k, v in value.items()}


def _as_text(value: Any) -> Any:
    # YAML reads a label 0 as an integer; in the source it is text.
    return value if isinstance(value, str) else str(value)


Texts = tuple[Annotated[str, BeforeValidator(_as_text)], ...]
# Class -> its names in the source; a single name means a list of that name.
Classes = Annotated[dict[str, Texts], BeforeValidator(_as_lists)]


def check_typed(schema: type[Section], given: Mapping[str, Any]) -> None:
    """Raise `StudyFileError` for invalid settings that the user typed, before they are used."""
    validate(schema, given, where="--set", prefix="dataset")


def plain_name(text: str) -> str:
    """'Patient ID' -> 'patientid'."""
    return "".join(letter for letter in text.lower() if letter.isalnum())


def find_header(role: str, headers: Iterable[str]) -> str | None:
    """The first usual header of this role that is present; None if there is none."""
    by_name = {plain_name(header): header for header in reversed(list(headers))}
    return next((by_name[name] for name in KNOWN[role] if name in by_name), None)


def find_people(headers: Iterable[str], given: Mapping[str, Any]) -> dict[str, str | None]:
    """The headers of `People` that are known; `given` takes precedence over usual headers."""
    headers = list(headers)
    return {role: given.get(role) or find_header(role, headers) for role in People.model_fields}


def in_order(names: Iterable[str]) -> list[str]:
    """Classes sorted by name; of two, the negative one by their names is the first."""
    names = sorted(names)
    return sorted(names, key=_rank) if len(names) == 2 else names


def _rank(name: str) -> int:
    """0 for the name of a negative class, 2 for that of a positive one, else 1."""
    if _negative(name):
        return 0
    return 2 if POSITIVE.match(_plain_letters(name)) else 1


def _negative(name: str) -> bool:
    return NEGATIVE.match(_plain_letters(name)) is not None


def _plain_letters(text: str) -> str:
    """'N\u00e3o' -> 'nao'."""
    letters = unicodedata.normalize("NFKD", text.strip().casefold())
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


def positive_note(classes: Sequence[str], key: str) -> list[str]:
    """Which of two classes is taken for the positive one, and how to correct that.

    Args:
        key: where study.yaml has the classes.
    """
    if len(classes) != 2:
        return []
    negative, positive = classes
    return [
        f"'{positive}' is taken for the positive class, and '{negative}' for the negative one: if "
        f"it is the other way round, swap the two under {key} in study.yaml and run `sltool "
        "prepare` again"
    ]


def need_two(
    classes: Sequence[str], where: Path | None, place: str, expected: str, hint: str
) -> None:
    """Raise `BadDataError` unless there are two classes or more.

    Args:
        place: where the classes come from: 'folders', "column 'label'".
    """
    if len(classes) >= 2:
        return
    found = f"one class only, '{classes[0]}'" if classes else "no class"
    raise BadDataError(
        f"there is {found} ({place})", where=where or "", expected=expected, hint=hint
    )


def alike(classes: Mapping[str, int]) -> list[str]:
    """A note for two classes whose names differ by a letter or by case: perhaps a typing error.

    Args:
        classes: name -> the number of its samples.
    """
    names = sorted(classes, key=lambda name: classes[name])
    notes = []
    for place, rare in enumerate(names):
        # An opposite ('COVID', 'non-COVID') is not a typing error, nor is a frequent class.
        others = {
            name.lower(): name
            for name in names[place + 1 :]
            if _negative(rare) == _negative(name) and 10 * classes[rare] <= classes[name]
        }
        for twin in map(others.get, get_close_matches(rare.lower(), others, 1, 0.8)):
            notes.append(
                f"the class '{rare}' has {plural(classes[rare], 'sample')} and is spelt like "
                f"'{twin}': if they are the same, write {twin}: [{twin}, {rare}] under "
                "dataset.classes"
            )
    return notes


def composed(text: str) -> str:
    """The text with accents in their letters: macOS keeps them apart in names of files."""
    return unicodedata.normalize("NFC", text)


class ClassCodes:
    """The source's labels -> class indices.

    Raises:
        StudyFileError: a label belongs to two classes.
    """

    def __init__(self, classes: Mapping[str, Sequence[str]], key: str) -> None:
        self._key = key
        self._codes: dict[str, int] = {}
        for code, labels in enumerate(classes.values()):
            for label in labels:
                if self._codes.setdefault(composed(label), code) != code:
                    raise StudyFileError(f"{key}: '{label}' belongs to two classes")

    def __contains__(self, label: str) -> bool:
        return composed(label) in self._codes

    def __getitem__(self, label: str) -> int:
        return self._codes[composed(label)]

    def get(self, label: str, default: int) -> int:
        """The class index of this label, or `default`."""
        return self._codes.get(composed(label), default)

    def unknown(self, label: str) -> str:
        """Why a sample with this label is refused."""
        if not label:
            return "it has no label"
        return f"its label '{label}' is none of {self._key}{nearest(label, self._codes)}"


def by_name(rows: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    """For `Scan.columns`: the rows' values by name, '' where a row has none.

    Names without any value are left out.
    """
    names = dict.fromkeys(name for row in rows for name, value in row.items() if value)
    return {name: [row.get(name, "") for row in rows] for name in names}


def other_columns(
    columns: Mapping[str, Sequence[str]], headers: Mapping[str, str | None]
) -> dict[str, Sequence[str]]:
    """For `Scan.columns`: the table's columns without those that have a role in `headers`.

    The hospital's is kept; its usual name, 'site', belongs to `Scan.sites`.
    """
    used = {header for role, header in headers.items() if role != "site"}
    if headers.get("site"):
        used.add("site")
    return {name: column for name, column in columns.items() if name not in used}


def split_of(name: str, splits: Mapping[str, SplitName]) -> str | None:
    """The split with this name in the source; '' for no name, None for an unknown name."""
    return {**{k.lower(): v for k, v in splits.items()}, "": ""}.get(name.lower())


def patient_notes(
    patients: Sequence[str],
    official: Sequence[str] | None,
    sites: Sequence[str] | None,
) -> list[str]:
    """A note for patients in two splits, and for patients at two sites."""
    notes = []
    if several := _in_two(patients, official or []):
        notes.append(
            f"{_counted(several)} in two of the source's splits ({_first(several)}): all samples "
            "of such a patient go to the split further from training"
        )
    if several := _in_two(patients, sites or []):
        notes.append(
            f"{_counted(several)} at two sites ({_first(several)}): is it the same person, or do "
            "two persons share an id? All samples of such a patient go to the same split"
        )
    return notes


def same_row_notes(
    inputs: NDArray[np.float32], labels: NDArray[Any], official: Sequence[str] | None
) -> list[str]:
    """A note for equal rows in different splits of the source."""
    if not official or not any(official):
        return []
    places: dict[bytes, set[str]] = defaultdict(set)
    for values, label, split in zip(inputs, labels, official, strict=True):
        places[values.tobytes() + label.tobytes()].add(split)
    twice = sum(len(found - {""}) > 1 for found in places.values())
    if not twice:
        return []
    return [
        f"{plural(twice, 'row is', 'rows are')} in two of the source's splits with the same "
        "values: the same patients? A patient column keeps them together"
    ]


def _in_two(patients: Sequence[str], column: Sequence[str]) -> dict[str, list[str]]:
    places: dict[str, set[str]] = defaultdict(set)
    for patient, place in zip(patients, column, strict=False):
        if place:
            places[patient].add(place)
    return {patient: sorted(found) for patient, found in places.items() if len(found) > 1}


def _counted(patients: Mapping[str, object]) -> str:
    return plural(len(patients), "patient is", "patients are")


def _first(patients: Mapping[str, list[str]]) -> str:
    patient, places = next(iter(patients.items()))
    return f"{patient}: {', '.join(places)}"


def listed(names: Iterable[str]) -> str:
    """'a, b, c'; of more than `SHOWN` names the first ones and the number of the others."""
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def counted(values: Iterable[str]) -> str:
    """'3 a, 2 b', the most frequent first."""
    return listed(f"{count} {value}" for value, count in Counter(values).most_common())
