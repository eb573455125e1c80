"""`join`: unpacking a kit in this folder, at a site or the server."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from typing_extensions import TypedDict

from sltool.errors import NotTrustedError, StudyMismatchError, UsageError
from sltool.files import publish, read_json, sha256, write_json
from sltool.shard.keys import fingerprint
from sltool.shard.kit import Kit
from sltool.shard.public_key_file import differing_parts
from sltool.study.layout import StudyFolder
from sltool.study.schema import Study, digest_of
from sltool.study.study_file import load_study, parse_study


class JoinedRecord(TypedDict):
    """`joined.json`: the kit that was unpacked here.

    Attributes:
        coordinator: the public key that signed it.
        kit: its digest.
        agreement: as `Study.agreement`.
        settings: digest of everything in its study.yaml but the sites, to notice later changes.
        time: when, UTC.
    """

    coordinator: str
    kit: str
    agreement: dict[str, str]
    settings: str
    time: str


@dataclass(frozen=True)
class Unpacked:
    """The study that is now in this folder.

    Attributes:
        changed: the parts of the agreement that differ from what was here before.
        again: whether this kit had been unpacked here before.
    """

    study: Study
    coordinator: str
    fingerprint: str
    agreement: str
    changed: Sequence[str]
    again: bool


def read_joined(folder: StudyFolder) -> JoinedRecord | None:
    """The record of the kit in this folder; None if study.yaml came in another way."""
    if not folder.joined.is_file():
        return None
    hint = "delete the file and run `sltool join` again"
    return read_json(folder.joined, JoinedRecord, "the record of the kit", hint)


def kit_study(kit: Kit) -> Study:
    """The study of a kit."""
    return parse_study(kit.study, kit.path)


def unpack_kit(folder: StudyFolder, kit: Kit, confirmed: str | None, force: bool) -> Unpacked:
    """Write the kit's files, unless this kit was unpacked here before.

    Args:
        confirmed: the fingerprint of the coordinator's key as the coordinator says it; None: the
            first key that is seen in this folder is trusted from then on.
        force: replace a study.yaml that was changed here.

    Raises:
        NotTrustedError: another key signed the kit than `confirmed`, or than an earlier kit.
        StudyMismatchError: the folder has another study.
        UsageError: its study.yaml was changed here since an earlier kit.
    """
    study, before = kit_study(kit), read_joined(folder)
    _check_coordinator(kit, before, confirmed)
    again = before is not None and before["kit"] == kit.digest and folder.study_file.is_file()
    if not again:
        _check_replaceable(folder, kit, study, before, force)
        if not folder.coordinator_key.is_file():
            _write(folder, kit)
    agreement = study.agreement(folder.privacy_layer)
    if not again:
        record = JoinedRecord(
            coordinator=kit.coordinator,
            kit=kit.digest,
            agreement=agreement,
            settings=_settings(study),
            time=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        write_json(folder.joined, record)
    changed = differing_parts(before["agreement"], agreement) if before and not again else []
    return Unpacked(
        study=load_study(folder),
        coordinator=kit.coordinator,
        fingerprint=fingerprint(kit.coordinator),
        agreement=digest_of(agreement),
        changed=changed,
        again=again,
    )


def changed_here(folder: StudyFolder, study: Study) -> bool:
    """Whether study.yaml was edited in this folder since its kit was unpacked."""
    joined = read_joined(folder)
    return joined is not None and joined["settings"] != _settings(study)


def _check_coordinator(kit: Kit, before: JoinedRecord | None, confirmed: str | None) -> None:
    if confirmed is not None:
        if _digits(confirmed) != _digits(fingerprint(kit.coordinator)):
            raise NotTrustedError(
                "another key signed the kit than the one you expect",
                where=kit.path,
                expected=f"the fingerprint {confirmed}, not {fingerprint(kit.coordinator)}",
                hint="ask the coordinator, on a telephone number that you do not have from the kit",
            )
    elif before is not None and before["coordinator"] != kit.coordinator:
        raise NotTrustedError(
            "another key signed this kit than the one before",
            where=kit.path,
            expected=f"the fingerprint {fingerprint(before['coordinator'])}, "
            f"not {fingerprint(kit.coordinator)}",
            hint="if the coordinator confirms the new key on the telephone, give its fingerprint "
            "with --fingerprint",
        )


def _digits(text: str) -> str:
    return re.sub(r"[\s:-]", "", text).lower()


def _check_replaceable(
    folder: StudyFolder, kit: Kit, study: Study, before: JoinedRecord | None, force: bool
) -> None:
    """Raise unless the kit's study may take the place of what is here."""
    if not folder.study_file.is_file():
        return
    here = load_study(folder)
    if here.id != study.id:
        raise StudyMismatchError(
            "this folder has another study",
            where=folder.study_file,
            expected=f"study {study.id}, as in the kit, not {here.id}",
            hint="join in an empty folder",
        )
    if folder.coordinator_key.is_file():
        if _settings(here) != _settings(study):
            raise UsageError(
                "this is the coordinator's folder, and the kit has another version of study.yaml",
                where=folder.study_file,
                hint="make the kit again with `sltool study kit`",
            )
    elif not force and (lost := _lost(folder, here, study, before)):
        raise UsageError(
            f"the kit would replace study.yaml, which {lost}",
            where=folder.study_file,
            hint=f"compare it with the one in {kit.path.name}, then run again with --force",
        )


def _lost(folder: StudyFolder, here: Study, study: Study, before: JoinedRecord | None) -> str:
    """What was entered in this folder's study.yaml and is not in the kit's; '' if nothing."""
    known = {_settings(study), *([before["settings"]] if before else [])}
    if _settings(here) not in known:
        return "was changed in this folder"
    # A site that joined here is entered again.
    names = sorted(here.sites.keys() - study.sites.keys() - set(folder.enrolled_names()))
    return f"lists {', '.join(names)}; the kit does not" if names else ""


def _settings(study: Study) -> str:
    content: dict[str, Any] = study.model_dump(mode="json", exclude={"sites"})
    return digest_of(content)


def _write(folder: StudyFolder, kit: Kit) -> None:
    # study.yaml comes last: a folder in which it is, is complete.
    files = {
        folder.privacy_layer: kit.layer,
        folder.leaflet: kit.leaflet,
        folder.study_file: kit.study,
    }
    if kit.onnx is not None:
        files = {folder.privacy_layer_onnx: kit.onnx, **files}
    for path, content in files.items():
        if not path.is_file() or sha256(path) != hashlib.sha256(content).hexdigest():
            with publish(path, public=True) as part:
                part.write_bytes(content)
