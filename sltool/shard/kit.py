"""A kit: study.yaml, the privacy layer and a leaflet in one signed file for all parties.

A kit is a ZIP archive of three stored members, which any file manager opens. Its comment, the last
bytes of the file, has the coordinator's public key and the signature (docs/shard-format.md). So
the signature is checked, over every byte in front of it, before the archive is parsed.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sltool.errors import NotTrustedError, ShardRefusedError
from sltool.files import publish
from sltool.shard.keys import SigningKey, is_signed_by
from sltool.shard.untrusted_file import UntrustedFile

MAGIC = b"sltool-kit 1"
STUDY, LAYER, LEAFLET = "study.yaml", "privacy-layer.safetensors", "leaflet.html"
ONNX = "privacy-layer.onnx"
# Greatest size of each member.
MEMBERS = {STUDY: 4 * 2**20, LAYER: 2**30, LEAFLET: 4 * 2**20}
# Of those that a kit may have, behind the others.
OPTIONAL = {ONNX: 2**30}
LIMITS = {**MEMBERS, **OPTIONAL}
MAX_BYTES = sum(LIMITS.values()) + 2**16

COMMENT = re.compile(rb"sltool-kit 1 (ed25519:[A-Za-z0-9+/]{43}=) (ed25519:[A-Za-z0-9+/]{86}==)\n")
COMMENT_BYTES = len(MAGIC) + 1 + 52 + 1 + 96 + 1
# The end record of an archive: signature, disks, entries here and in all, size and offset of the
# directory, length of the comment.
END = struct.Struct("<4s2H2H2IH")
MAX_DIRECTORY = 4096
# The earliest date that an archive can have: the same content gives the same bytes.
DATE = (1980, 1, 1, 0, 0, 0)
# Stated whatever the system is, for the same reason.
UNIX = 3


@dataclass(frozen=True)
class Kit:
    """The content of a kit whose signature is valid.

    Attributes:
        coordinator: the public key that signed it, which says who it is only once its fingerprint
            is confirmed.
        digest: hex SHA-256 of the file without its signature: which kit it is.
        onnx: the privacy layer for sites without torch, if NumPy cannot compute it.
    """

    path: Path
    coordinator: str
    digest: str
    study: bytes
    layer: bytes
    leaflet: bytes
    onnx: bytes | None


def write_kit(path: Path, members: Mapping[str, bytes], key: SigningKey) -> str:
    """Publish and sign a kit; returns its digest. The same content and key give the same file.

    Args:
        members: the content of each of `MEMBERS`, and of those of `OPTIONAL` that there are.
    """
    with publish(path, public=True) as part:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
            for name in filter(members.__contains__, LIMITS):
                entry = zipfile.ZipInfo(name, DATE)
                entry.create_system = UNIX
                archive.writestr(entry, members[name])
            archive.comment = bytes(COMMENT_BYTES)
        content = part.read_bytes()[:-COMMENT_BYTES]
        digest = hashlib.sha256(content).hexdigest()
        signature = key.sign(_message(digest)).encode("ascii")
        comment = b"%b %b %b\n" % (MAGIC, key.public.encode("ascii"), signature)
        part.write_bytes(content + comment)
    return digest


def read_kit(path: Path) -> Kit:
    """Check the signature of a kit, then read its members.

    Raises:
        NotTrustedError: a byte differs from what was signed.
        ShardRefusedError: the file is not a kit, or breaks the format.
        UnreadableError: it does not exist, or may not be read.
    """
    with UntrustedFile(path) as file:
        if file.size > MAX_BYTES:
            raise file.refused("is too long for a study's kit")
        end = file.size - COMMENT_BYTES
        found = COMMENT.fullmatch(file.read(max(end, 0), COMMENT_BYTES))
        if end < END.size or not found:
            raise file.refused(
                "is not a study's kit", expected="the file that `sltool study kit` made, unchanged"
            )
        key, signature = (group.decode("ascii") for group in found.groups())
        digest = file.sha256(0, end)
        if not is_signed_by(key, signature, _message(digest)):
            raise NotTrustedError(
                "the kit was changed after it was signed",
                where=path,
                hint="ask the study's coordinator to send it again",
            )
        _check_end(file, end - END.size)
        members = _members(file)
        file.check_unchanged()
    return Kit(
        path, key, digest, members[STUDY], members[LAYER], members[LEAFLET], members.get(ONNX)
    )


def kit_digest(path: Path) -> str | None:
    """The digest of a kit that this folder's coordinator made; None if there is none."""
    if not path.is_file() or path.stat().st_size < COMMENT_BYTES:
        return None
    with UntrustedFile(path) as file:
        return file.sha256(0, file.size - COMMENT_BYTES)


def _message(digest: str) -> bytes:
    return MAGIC + b"\n" + digest.encode("ascii")


def _check_end(file: UntrustedFile, offset: int) -> None:
    """Raise `ShardRefusedError` unless the directory is small and directly before the end record.

    Otherwise `zipfile` would read a directory of any size, or one of several.
    """
    magic, disk, first, here, entries, size, start, comment = END.unpack(
        file.read(offset, END.size)
    )
    locator = file.read(max(offset - 20, 0), 4)
    if (
        (magic, disk, first) != (b"PK\5\6", 0, 0)
        or here != entries
        or not len(MEMBERS) <= entries <= len(LIMITS)
        or size > MAX_DIRECTORY
        or start + size != offset
        or comment != COMMENT_BYTES
        or locator == b"PK\6\7"
    ):
        raise _malformed(file)


def _members(file: UntrustedFile) -> dict[str, bytes]:
    """The content of each member. No name in the archive is used as a path."""
    with os.fdopen(file.duplicate(), "rb") as handle:
        try:
            with zipfile.ZipFile(handle) as archive:
                entries = archive.infolist()
                names = [entry.filename for entry in entries]
                if names not in ([*MEMBERS], [*LIMITS]) or not all(map(_is_plain, entries)):
                    raise _malformed(file)
                return {entry.filename: archive.read(entry) for entry in entries}
        except (zipfile.BadZipFile, struct.error, ValueError, EOFError, RuntimeError) as error:
            raise _malformed(file) from error


def _is_plain(entry: zipfile.ZipInfo) -> bool:
    """Whether a member is neither compressed nor encrypted, nor too long."""
    stored = entry.compress_type == zipfile.ZIP_STORED and not entry.flag_bits & 1
    return stored and entry.file_size == entry.compress_size <= LIMITS[entry.filename]


def _malformed(file: UntrustedFile) -> ShardRefusedError:
    return file.refused(
        "is signed, but is not a kit", expected=f"an archive of {', '.join(MEMBERS)}, stored"
    )
