"""An answer: the server's signed predictions for a site's cases, by pseudonym.

A text file of three lines (docs/shard-format.md): `sltool-predictions 1`, the predictions as
canonical JSON, and the server's signature over them.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, ValidationError, model_validator

from sltool.errors import NotTrustedError, StudyMismatchError
from sltool.files import PART, remove
from sltool.shard.encryption import SUFFIX as AGE
from sltool.shard.encryption import encrypt
from sltool.shard.keys import SigningKey, is_signed_by
from sltool.shard.manifest import MAX_SAMPLES, Digest
from sltool.shard.signed_text import SignedText, signed_bytes, write_signed
from sltool.shard.untrusted_file import UntrustedFile
from sltool.shard.withdrawal import Pseudonym
from sltool.study.meaning import differences
from sltool.study.schema import Labels, Section, SiteName, Study, digest_of

MAGIC = b"sltool-predictions 1"
SUFFIX = ".predictions"
MAX_BYTES = 2**30
# Of an answer's name.
ID_DIGITS = 16


class Trained(Section):
    """What the model was trained on.

    Attributes:
        sites: each site's training samples in an epoch.
        best_epoch: the epoch of the weights.
        validation: figures of that epoch; the validation samples are of all sites.
    """

    sites: dict[SiteName, int]
    best_epoch: int
    validation: dict[str, float]


class Point(Section):
    """An operating point: a case is `positive` if that class's probability is `threshold` or more.

    Attributes:
        name: what the threshold was chosen for: 'sensitivity=0.95'.
    """

    name: str
    positive: str
    threshold: float


class Answer(SignedText):
    """What the signature covers.

    Attributes:
        meaning: `Study.meaning` of the encoding, to name a key that differs at the site.
        model: hex SHA-256 of `model.safetensors`.
        made: the time, UTC, ISO 8601.
        values: for each pseudonym the value, or the probability of each class.
    """

    format: Literal[1] = 1
    study: str
    encoding: Digest
    meaning: dict[str, Any]
    site: SiteName
    key: str
    run: str
    model: Digest
    made: Annotated[str, StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}Z$")]
    tool: str
    trained: Trained
    labels: Labels
    points: tuple[Point, ...]
    pseudonyms: tuple[Pseudonym, ...] = Field(min_length=1, max_length=MAX_SAMPLES)
    values: tuple[tuple[float, ...], ...]

    @model_validator(mode="after")
    def _fits(self) -> Answer:
        width = max(1, len(self.labels.classes))
        if len(self.values) != len(self.pseudonyms) or any(len(v) != width for v in self.values):
            raise ValueError("the values do not fit the pseudonyms or the classes")
        if any(point.positive not in self.labels.classes for point in self.points):
            raise ValueError("an operating point is for a class that does not exist")
        return self

    def decisions(self, point: Point) -> list[bool]:
        """Whether each case is positive."""
        column = self.labels.classes.index(point.positive)
        return [values[column] >= point.threshold for values in self.values]


def write_answer(folder: Path, answer: Answer, key: SigningKey, recipient: str | None) -> Path:
    """Sign and publish an answer as `SITE-RUN-XXXXXXXXXXXXXXXX.predictions`.

    What a killed process left of an earlier answer of this run for this site is deleted.

    Args:
        recipient: the site's; then the file is encrypted, ends in `.age`, and is never on the disk
            in plain text. None: it is not encrypted.

    Raises:
        UsageError: pyrage is not installed, or `recipient` is not an age recipient.
        StorageError: no space or no permission.
    """
    name = f"{answer.site}-{answer.run}"
    for left in folder.glob(f"{name}-{'[0-9a-f]' * ID_DIGITS}{SUFFIX}*{PART}"):
        remove(left)
    digest = hashlib.sha256(answer.to_bytes()).hexdigest()
    path = folder / f"{name}-{digest[:ID_DIGITS]}{SUFFIX}"
    if recipient is None:
        write_signed(path, MAGIC, answer, key)
        return path
    encrypted = path.with_name(path.name + AGE)
    encrypt(io.BytesIO(signed_bytes(MAGIC, answer, key)), encrypted, recipient)
    return encrypted


def read_answer(
    path: Path, study: Study, site: str, server_key: str, meaning: dict[str, Any]
) -> Answer:
    """Verify and read an answer.

    Args:
        server_key: the server's public key.
        meaning: `Study.meaning` at the site.

    Raises:
        NotTrustedError: it is not signed with the server's key.
        StudyMismatchError: it is of another study, site or encoding.
        ShardRefusedError: the file breaks the format.
    """
    with UntrustedFile(path) as file:
        if file.size > MAX_BYTES:
            raise file.refused("is too long for predictions")
        lines = file.read(0, MAX_BYTES).split(b"\n")
        if len(lines) != 4 or lines[0] != MAGIC or lines[3]:
            raise file.refused(
                "does not begin and end like predictions",
                expected=f"the file NAME{SUFFIX}, as `sltool predict` wrote it",
            )
        signature = lines[2].decode("ascii", "replace")
        if not is_signed_by(server_key, signature, lines[1]):
            raise NotTrustedError(
                "the predictions are not signed by the study's server",
                where=path,
                expected=f"the key {server_key}",
                hint="ask the server's operator; a new key belongs under server.key in study.yaml",
            )
        try:
            answer = Answer.model_validate_json(lines[1])
        except ValidationError as error:
            raise file.refused("breaks the format of predictions") from error
    _check_addressee(answer, study, site, path)
    if answer.encoding != digest_of(meaning):
        raise _other_encoding(answer, meaning, path)
    return answer


def _check_addressee(answer: Answer, study: Study, site: str, path: Path) -> None:
    for name, theirs, ours in (
        ("study", answer.study, study.id),
        ("site", answer.site, site),
    ):
        if theirs != ours:
            raise StudyMismatchError(
                f"the predictions are for another {name}",
                where=path,
                expected=f"{name} {ours}, not {theirs}",
            )


def _other_encoding(answer: Answer, meaning: dict[str, Any], path: Path) -> StudyMismatchError:
    facts = [
        f"{key} is {ours} here, and {theirs} there"
        for key, ours, theirs in differences(meaning, answer.meaning)
    ]
    return StudyMismatchError(
        f"the predictions are for another encoding: {'; '.join(facts)}",
        where=path,
        hint="read them where the study.yaml and privacy-layer.safetensors are that the cases were "
        "encoded with",
    )
