"""Encryption for the road: age files (age-encryption.org/v1), by the library `pyrage`.

The signature inside says who sent a shard; this hides it from whoever carries the disk. Files of
any size pass through in constant memory.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sltool.errors import BadDataError, StageOrderError, StorageError, UsageError
from sltool.files import publish, write_text
from sltool.shard.untrusted_file import UntrustedFile

SUFFIX = ".age"
MAGIC = b"age-encryption.org/v1\n"
EXPECTED = "an age file for this server's `server.recipient`, as it was shipped"


def encrypt(source: Path, target: Path, recipient: str) -> None:
    """Publish `source` at `target`, readable only for the server.

    Raises:
        UsageError: pyrage is not installed, or `recipient` is none.
        StorageError: no space or no permission.
    """
    pyrage = _pyrage()
    try:
        to = pyrage.x25519.Recipient.from_str(recipient)
    except pyrage.RecipientError as error:
        raise UsageError(
            "server.recipient is not an age recipient",
            where="study.yaml",
            expected="the line that `sltool server-keys` prints",
        ) from error
    with publish(target) as part, source.open("rb") as reader, part.open("wb") as writer:
        try:
            pyrage.encrypt_io(reader, writer, [to])
        except pyrage.EncryptError as error:
            # Only reading and writing can fail here, and pyrage hides the system's error.
            raise OSError(str(error)) from error


def decrypt(source: Path, target: Path, identity: Path) -> None:
    """Publish what `source` holds at `target`, whole or not at all.

    Raises:
        StageOrderError: this server has no identity.
        BadDataError: its identity is damaged.
        ShardRefusedError: no age file, encrypted for another server, damaged or cut off.
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
            # For a damaged body pyrage raises an OSError that no system call has caused.
            if getattr(error, "errno", None) is not None:
                raise
            raise file.refused("cannot be decrypted", expected=EXPECTED) from error


def make_identity(path: Path) -> str:
    """The recipient of the identity in `path`, which is made, private, if need be."""
    pyrage = _pyrage()
    if not path.exists():
        write_text(path, f"{pyrage.x25519.Identity.generate()}\n")
    return str(_identity(pyrage, path).to_public())


def _identity(pyrage: Any, path: Path) -> Any:
    try:
        text = path.read_text(encoding="ascii")
    except FileNotFoundError as error:
        raise StageOrderError(
            "an encrypted file arrived, and this server has no identity to read it",
            where=path,
            hint="bring back the file that `sltool server-keys` made",
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
    # Of this server, not of the arrived file: that one stays in the inbox.
    return BadDataError(
        "the file holds no age identity",
        where=path,
        hint="bring back the file that `sltool server-keys` made",
    )


def _pyrage() -> Any:
    try:
        import pyrage
    except ImportError as error:
        raise UsageError(
            "encryption for the road needs another package", hint="install sltool[age]"
        ) from error
    return pyrage
