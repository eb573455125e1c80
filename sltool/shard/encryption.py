"""Encryption in transit: age files (age-encryption.org/v1), with the library `pyrage`.

The signature inside proves who sent a shard; encryption keeps it confidential on the way. Files of
any size are processed in constant memory.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

from sltool.errors import BadDataError, StageOrderError, StorageError, UsageError
from sltool.files import publish, write_text
from sltool.shard.untrusted_file import UntrustedFile

SUFFIX = ".age"
MAGIC = b"age-encryption.org/v1\n"
EXPECTED = "an age file for this server's or site's `recipient` in study.yaml, as it was sent"


def encrypt(source: Path | BinaryIO, target: Path, recipient: str) -> None:
    """Publish `source` at `target`, readable only for the recipient.

    Args:
        source: a file; or an open one, such as bytes that should never be on the disk as they are.

    Raises:
        UsageError: pyrage is not installed, or `recipient` is not an age recipient.
        StorageError: no space or no permission.
    """
    pyrage = _pyrage()
    try:
        parsed = pyrage.x25519.Recipient.from_str(recipient)
    except pyrage.RecipientError as error:
        raise UsageError(
            "server.recipient is not an age recipient",
            where="study.yaml",
            expected="the line that `sltool server-keys` prints",
        ) from error
    opened = source.open("rb") if isinstance(source, Path) else nullcontext(source)
    with publish(target) as part, opened as reader, part.open("wb") as writer:
        try:
            pyrage.encrypt_io(reader, writer, [parsed])
        except pyrage.EncryptError as error:
            # Only reading and writing can fail here; pyrage does not pass on the system's error.
            raise OSError(str(error)) from error


def decrypt(source: Path, target: Path, identity: Path) -> None:
    """Publish the decrypted content of `source` at `target`, atomically.

    Raises:
        StageOrderError: this server has no identity.
        BadDataError: its identity is damaged.
        ShardRefusedError: not an age file, encrypted for another server, damaged or cut off.
        UnreadableError: the operating system refused to open or read it.
    """
    with UntrustedFile(source) as file:
        if file.read(0, len(MAGIC)) != MAGIC:
            raise file.refused("cannot be decrypted: it is not an age file", expected=EXPECTED)
        pyrage = _pyrage()
        _decrypt(pyrage, file, target, _identity(pyrage, identity))


def _decrypt(pyrage: Any, file: UntrustedFile, target: Path, key: Any) -> None:
    with (
        publish(target) as part,
        os.fdopen(file.duplicate(), "rb") as reader,
        part.open("wb") as writer,
    ):
        try:
            pyrage.decrypt_io(reader, writer, [key])
        except (pyrage.DecryptError, OSError) as error:
            # For a damaged body pyrage raises an OSError without an errno.
            if getattr(error, "errno", None) is not None:
                raise
            raise file.refused("cannot be decrypted", expected=EXPECTED) from error


def is_available() -> bool:
    """Whether the package that encrypts is installed."""
    return find_spec("pyrage") is not None


def make_identity(path: Path) -> str:
    """The recipient of the identity in `path`, which is created, private, if it does not exist."""
    pyrage = _pyrage()
    if not path.exists():
        write_text(path, f"{pyrage.x25519.Identity.generate()}\n")
    return str(_identity(pyrage, path).to_public())


def _identity(pyrage: Any, path: Path) -> Any:
    try:
        text = path.read_text(encoding="ascii")
    except FileNotFoundError as error:
        raise StageOrderError(
            "the file is encrypted, and there is no identity here to decrypt it",
            where=path,
            hint="restore the file that `sltool server-keys`, or at a site `sltool enroll "
            "--encrypt`, created",
        ) from error
    except OSError as error:
        raise StorageError.of(error, path, "read") from error
    except UnicodeDecodeError as error:
        raise _no_identity(path) from error
    try:
        return pyrage.x25519.Identity.from_str(text.strip())
    except pyrage.IdentityError as error:
        raise _no_identity(path) from error


def _no_identity(path: Path) -> BadDataError:
    # The server's own file is at fault, not the arrived one, which therefore stays in the inbox.
    return BadDataError(
        "the file is not an age identity",
        where=path,
        hint="restore the file that `sltool server-keys`, or at a site `sltool enroll --encrypt`, "
        "created",
    )


def _pyrage() -> Any:
    try:
        import pyrage
    except ImportError as error:
        raise UsageError(
            "encryption needs the package pyrage", hint="install sltool[age]"
        ) from error
    return pyrage
