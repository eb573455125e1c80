"""Small signed files of three lines: a format's name, a document as canonical JSON, its signature.

Withdrawals, the files of public keys and answers are such files (docs/shard-format.md).
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from sltool.errors import ShardRefusedError
from sltool.files import canonical_json, publish
from sltool.shard.keys import SigningKey
from sltool.shard.untrusted_file import UntrustedFile
from sltool.study.schema import Section


class SignedText(Section):
    """What the signature covers."""

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical_json(self.model_dump(mode="json"))


Signed = TypeVar("Signed", bound=SignedText)


def signed_bytes(magic: bytes, document: SignedText, key: SigningKey) -> bytes:
    """The file's bytes; the same document and key give the same ones."""
    return _pack(magic, document, key.sign(document.to_bytes()))


def write_signed(
    path: Path, magic: bytes, document: SignedText, key: SigningKey, *, public: bool = False
) -> None:
    """Sign and publish a document."""
    with publish(path, public=public) as part:
        part.write_bytes(signed_bytes(magic, document, key))


def read_signed(
    path: Path, magic: bytes, kind: type[Signed], what: str, max_bytes: int
) -> tuple[Signed, str]:
    """The document and its signature, neither of them trusted yet.

    Args:
        what: the kind of file in messages, such as 'a withdrawal'.

    Raises:
        ShardRefusedError: the file differs from what `write_signed` writes.
        UnreadableError: the operating system refused to open or read it.
    """
    with UntrustedFile(path) as file:
        if file.size > max_bytes:
            raise file.refused(f"is too long for {what}")
        block = file.read(0, max_bytes)
        lines = block.split(b"\n")
        if len(lines) != 4 or lines[0] != magic:
            raise file.refused(f"does not begin like {what}")
        try:
            document = kind.model_validate_json(lines[1])
            signature = lines[2].decode("ascii")
        except (ValidationError, UnicodeDecodeError) as error:
            raise file.refused(f"breaks the format of {what}") from error
        if _pack(magic, document, signature) != block:
            raise ShardRefusedError(f"the file is not {what} in canonical form", where=path)
    return document, signature


def _pack(magic: bytes, document: SignedText, signature: str) -> bytes:
    return b"\n".join([magic, document.to_bytes(), signature.encode("ascii"), b""])
