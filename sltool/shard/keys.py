"""Ed25519 keys (RFC 8032), which sign manifests, withdrawals, kits and the files of public keys."""

from __future__ import annotations

import base64
import binascii
import hashlib
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from sltool.errors import NotTrustedError, StorageError
from sltool.files import write_text

PREFIX = "ed25519:"


class SigningKey:
    """The private key of a site or a coordinator."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def load_or_create(cls, path: Path) -> SigningKey:
        """The key in `path`, or a new one written there."""
        if not path.exists():
            secret = Ed25519PrivateKey.generate().private_bytes_raw()
            write_text(path, _encode(secret) + "\n")
        return cls.load(path)

    @classmethod
    def load(cls, path: Path) -> SigningKey:
        """The key in `path`.

        Raises:
            StorageError: the file could not be read.
            NotTrustedError: it does not contain a key.
        """
        try:
            secret = _decode(path.read_text(encoding="ascii").strip())
            return cls(Ed25519PrivateKey.from_private_bytes(secret))
        except OSError as error:
            raise StorageError.of(error, path, "read") from error
        except ValueError as error:
            raise NotTrustedError("the file is not an Ed25519 private key", where=path) from error

    @property
    def public(self) -> str:
        """The public key, 'ed25519:BASE64', as in study.yaml."""
        return _encode(self._key.public_key().public_bytes_raw())

    def sign(self, message: bytes) -> str:
        """The signature, 'ed25519:BASE64'."""
        return _encode(self._key.sign(message))


def key_id(public: str) -> str:
    """A short name of a public key: the first 16 hex digits of its SHA-256."""
    return hashlib.sha256(_decode(public)).hexdigest()[:16]


def fingerprint(public: str) -> str:
    """A public key in a form to read out: the first 32 hex digits of its SHA-256, four at a time.

    Its first four groups are the `key_id`.
    """
    digits = hashlib.sha256(_decode(public)).hexdigest()[:32]
    return " ".join(digits[start : start + 4] for start in range(0, len(digits), 4))


def is_signed_by(public: str, signature: str, message: bytes) -> bool:
    """Whether `signature` over `message` was made with the private half of `public`."""
    try:
        key = Ed25519PublicKey.from_public_bytes(_decode(public))
        key.verify(_decode(signature), message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _encode(raw: bytes) -> str:
    return PREFIX + base64.b64encode(raw).decode("ascii")


def _decode(text: str) -> bytes:
    if not text.startswith(PREFIX):
        raise ValueError(f"it does not begin with '{PREFIX}'")
    try:
        raw = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error
    # Decoding ignores some bits of the last character.
    if _encode(raw) != text:
        raise ValueError("not canonical base64 (RFC 4648, section 3.5)")
    return raw
