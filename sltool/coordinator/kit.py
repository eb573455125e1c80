"""`study kit` and `study add`: what the coordinator hands out, and what comes back from a site."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sltool.coordinator.leaflet import leaflet
from sltool.errors import StorageError, StudyMismatchError
from sltool.files import copy
from sltool.models.privacy_layer_file import (
    feature_shape,
    known_shape,
    load_privacy_layer,
    onnx_file,
)
from sltool.shard.keys import SigningKey, fingerprint
from sltool.shard.kit import LAYER, LEAFLET, ONNX, STUDY, write_kit
from sltool.shard.public_key_file import PublicKeyFile, differing_parts, read_public_key
from sltool.study.layout import StudyFolder
from sltool.study.schema import Site, Study, digest_of
from sltool.study.study_file import add_sites, load_study, parse_study

OTHER_KEY = "docs/how-to/trust.md says how to change a site's key"


@dataclass(frozen=True)
class KitResult:
    """The kit that was written.

    Attributes:
        agreement: the digest of the agreement's version.
        coordinator: the public key that signed it, and `fingerprint` to read out.
        key_file: where the private key is.
    """

    file: Path
    study: str
    agreement: str
    coordinator: str
    fingerprint: str
    key_file: Path


def make_kit(folder: StudyFolder, to: Path | None = None) -> KitResult:
    """Sign study.yaml, the privacy layer and a leaflet; makes the coordinator's key on first use.

    Args:
        to: the file to write; by default `study-kit.zip`.

    Raises:
        StageOrderError: there is no study or no privacy layer.
        StudyMismatchError: the privacy layer does not fit the model, or its ONNX file is another's.
    """
    load_study(folder)
    text = _bytes(folder.study_file)
    study = parse_study(text, folder.study_file)
    agreement = digest_of(study.agreement(folder.privacy_layer))
    if known_shape(folder.privacy_layer, study) is None:
        load_privacy_layer(folder, study)
    key = SigningKey.load_or_create(folder.coordinator_key)
    page = leaflet(study, agreement, feature_shape(folder.privacy_layer, study), key.public)
    members = {STUDY: text, LAYER: _bytes(folder.privacy_layer), LEAFLET: page.encode("utf-8")}
    if (onnx := onnx_file(folder)) is not None:
        members[ONNX] = _bytes(onnx)
    path = to or folder.kit
    write_kit(path, members, key)
    return KitResult(
        path, study.id, agreement, key.public, fingerprint(key.public), folder.coordinator_key
    )


@dataclass(frozen=True)
class AddResult:
    """A site that was added; `again` if study.yaml had listed its key before."""

    site: str
    key: str
    fingerprint: str
    agreement: str
    again: bool


def add_site(folder: StudyFolder, path: Path) -> AddResult:
    """Enter the site of a `.pub` file in study.yaml; comments stay.

    Raises:
        NotTrustedError: the file is not signed with the key that it names.
        ShardRefusedError: the file breaks the format.
        StudyMismatchError: it is of another study, the site joined another version of this one, or
            study.yaml lists another key for it.
        StudyFileError: study.yaml cannot be edited automatically.
    """
    study = load_study(folder)
    found = read_public_key(path)
    _check(folder, study, found, path)
    again = found.site in study.sites
    if not again:
        add_sites(folder.study_file, {found.site: Site(key=found.key, recipient=found.recipient)})
    copy(path, folder.added(found.site))
    return AddResult(
        found.site, found.key, fingerprint(found.key), digest_of(found.agreement), again
    )


def _check(folder: StudyFolder, study: Study, found: PublicKeyFile, path: Path) -> None:
    if found.study != study.id:
        raise StudyMismatchError(
            f"site {found.site} joined another study",
            where=path,
            expected=f"study {study.id}, not {found.study}",
            hint="send the site this study's kit, from `sltool study kit`",
        )
    if parts := differing_parts(found.agreement, study.agreement(folder.privacy_layer)):
        raise StudyMismatchError(
            f"site {found.site} joined another version of this study: {', '.join(parts)} "
            f"{'differs' if len(parts) == 1 else 'differ'}",
            where=path,
            expected="the version in this folder",
            hint="send the site the kit of this version (`sltool study kit`); it runs "
            f"`sltool join KIT --site {found.site}` again and sends back {path.name}",
        )
    listed = study.sites.get(found.site)
    if listed is not None and listed.key != found.key:
        raise StudyMismatchError(
            f"study.yaml lists another key for site {found.site}",
            where=folder.study_file,
            expected=f"{found.key}, as in {path.name}",
            hint=OTHER_KEY,
        )
    if listed is not None and found.recipient not in (None, listed.recipient):
        raise StudyMismatchError(
            f"study.yaml lists {'another' if listed.recipient else 'no'} recipient for site "
            f"{found.site}",
            where=folder.study_file,
            expected=f"{found.recipient}, as in {path.name}",
            hint=f"enter `recipient: {found.recipient}` under sites.{found.site}, and run the "
            "command again",
        )


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StorageError.of(error, path, "read") from error
