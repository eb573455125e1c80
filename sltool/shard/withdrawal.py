"""A withdrawal: a site's signed list of pseudonyms that must not be used any more.

A text file that is shipped like a shard (docs/shard-format.md), of three lines: `sltool-withdrawal
1`, the list as canonical JSON, and the signature over it.
"""

from __future__ import annotations

import hashlib
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from sltool.errors import StudyMismatchError
from sltool.shard.keys import SigningKey, key_id
from sltool.shard.manifest import MAX_SAMPLES
from sltool.shard.reader import check_signer
from sltool.shard.signed_text import SignedText, read_signed, write_signed
from sltool.study.schema import SiteName, Study

MAGIC = b"sltool-withdrawal 1"
SUFFIX = ".withdrawal"
MAX_BYTES = 64 * 2**20

Pseudonym = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]


class Withdrawal(SignedText):
    """What the signature covers."""

    format: Literal[1] = 1
    study: str
    site: SiteName
    key: str
    pseudonyms: tuple[Pseudonym, ...] = Field(min_length=1, max_length=MAX_SAMPLES)

    @model_validator(mode="after")
    def _is_sorted(self) -> Withdrawal:
        if any(first >= second for first, second in pairwise(self.pseudonyms)):
            raise ValueError("the pseudonyms are not sorted and unique")
        return self

    @property
    def name(self) -> str:
        """The file's name: the site, and the beginning of the list's SHA-256."""
        return f"{self.site}-{hashlib.sha256(self.to_bytes()).hexdigest()[:16]}{SUFFIX}"


def write_withdrawal(
    folder: Path, study: Study, site: str, pseudonyms: list[str], key: SigningKey
) -> Path:
    """Sign and publish a withdrawal; the same list gives the same file."""
    withdrawal = Withdrawal(
        study=study.id, site=site, key=key_id(key.public), pseudonyms=tuple(sorted(pseudonyms))
    )
    path = folder / withdrawal.name
    write_signed(path, MAGIC, withdrawal, key)
    return path


def read_withdrawal(path: Path, study: Study, *, arriving: bool = True) -> Withdrawal:
    """Verify and read a withdrawal.

    Raises:
        NotTrustedError: it is not signed with a key that the study lists for that site.
        StudyMismatchError: it is of another study.
        ShardRefusedError: the file breaks the format.
    """
    withdrawal, signature = read_signed(path, MAGIC, Withdrawal, "a withdrawal", MAX_BYTES)
    check_signer(
        study, withdrawal.site, withdrawal.key, signature, withdrawal.to_bytes(), path, arriving
    )
    if withdrawal.study != study.id:
        raise StudyMismatchError("the withdrawal belongs to another study", where=path)
    return withdrawal
