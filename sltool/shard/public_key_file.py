"""`B.pub`: what a site sends back when it has joined, its public key and which agreement it has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from sltool.errors import NotTrustedError
from sltool.files import canonical_json
from sltool.shard.keys import SigningKey, is_signed_by
from sltool.shard.manifest import Digest
from sltool.shard.signed_text import SignedText, read_signed, write_signed
from sltool.study.schema import PublicKey, Recipient, SiteName, Study
from sltool.version import __version__

MAGIC = b"sltool-site 1"
SUFFIX = ".pub"
MAX_BYTES = 16 * 1024

Part = Annotated[str, StringConstraints(pattern=r"^[a-z_]{1,32}$")]


class PublicKeyFile(SignedText):
    """What the signature covers.

    Attributes:
        agreement: as `Study.agreement`, of the copy of the study that the site has.
        encoding: its encoding digest.
        recipient: the site's age recipient, if predictions are to be encrypted for it.
    """

    format: Literal[1] = 1
    study: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
    site: SiteName
    key: PublicKey
    agreement: dict[Part, Digest] = Field(min_length=1, max_length=32)
    encoding: Digest
    recipient: Recipient | None = None
    tool: Annotated[str, StringConstraints(pattern=r"^[ -~]{1,64}$")]

    def to_bytes(self) -> bytes:
        """Canonical JSON, without a recipient if there is none."""
        return canonical_json(self.model_dump(mode="json", exclude_none=True))


def write_public_key(
    path: Path,
    study: Study,
    privacy_layer: Path,
    site: str,
    key: SigningKey,
    recipient: str | None,
) -> PublicKeyFile:
    """Sign and publish a site's public key and the version of the agreement that it has."""
    document = PublicKeyFile(
        study=study.id,
        site=site,
        key=key.public,
        agreement=study.agreement(privacy_layer),
        encoding=study.encoding_digest(privacy_layer),
        recipient=recipient,
        tool=f"sltool {__version__}",
    )
    write_signed(path, MAGIC, document, key, public=True)
    return document


def read_public_key(path: Path) -> PublicKeyFile:
    """Read such a file. The signature shows only that the sender has the private key.

    Raises:
        NotTrustedError: it is not signed with the key that it names.
        ShardRefusedError: the file breaks the format.
        UnreadableError: it does not exist, or may not be read.
    """
    document, signature = read_signed(
        path, MAGIC, PublicKeyFile, "the file of a site's public key", MAX_BYTES
    )
    if not is_signed_by(document.key, signature, document.to_bytes()):
        raise NotTrustedError(
            "the file is not signed with the key that it names",
            where=path,
            hint=f"ask site {document.site} to send it again",
        )
    return document


def differing_parts(first: dict[str, str], second: dict[str, str]) -> list[str]:
    """The parts in which two versions of the agreement differ, by name."""
    names = sorted(first.keys() | second.keys())
    return [name for name in names if first.get(name) != second.get(name)]
