"""Who has which version of the agreement, and what the coordinator does next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sltool.errors import SltoolError
from sltool.shard.keys import fingerprint
from sltool.shard.kit import read_kit
from sltool.shard.public_key_file import differing_parts, read_public_key
from sltool.study.layout import StudyFolder
from sltool.study.next_step import NextStep
from sltool.study.schema import Study, digest_of
from sltool.study.study_file import parse_study


@dataclass(frozen=True)
class Party:
    """A site that study.yaml lists.

    Attributes:
        agreement: the digest of the version that it joined; None if it was listed in another way.
        differs: the parts in which that version differs from the one in this folder.
    """

    site: str
    fingerprint: str
    agreement: str | None
    differs: list[str]

    @property
    def version(self) -> str:
        """Which version it has, in words."""
        if self.agreement is None:
            return "not known"
        if self.differs:
            return f"{self.agreement[:16]}: {', '.join(self.differs)} differ"
        return f"{self.agreement[:16]}: this one"


@dataclass(frozen=True)
class CoordinatorStatus:
    """The coordinator's side.

    Attributes:
        kit: whether `study-kit.zip` has study.yaml and the privacy layer as they are now.
        returned: files of public keys in this folder that were not added yet.
    """

    fingerprint: str
    kit: bool
    returned: list[str]
    next: NextStep


def parties(folder: StudyFolder, study: Study) -> list[Party]:
    """Every listed site, with what it sent back when it joined."""
    here = study.agreement(folder.privacy_layer) if folder.privacy_layer.is_file() else {}
    return [_party(folder, name, site.key, here) for name, site in study.sites.items()]


def _party(folder: StudyFolder, name: str, key: str, here: dict[str, str]) -> Party:
    path = folder.added(name)
    if not path.is_file():
        return Party(name, fingerprint(key), None, [])
    found = read_public_key(path)
    differs = differing_parts(found.agreement, here)
    return Party(name, fingerprint(key), digest_of(found.agreement), differs)


def coordinator_status(folder: StudyFolder, study: Study, public: str) -> CoordinatorStatus:
    """The state of the coordinator's folder.

    Args:
        public: the coordinator's public key.
    """
    kit = _kit_is_current(folder, study)
    returned = [
        path.name
        for path in sorted(folder.root.glob("*.pub"))
        if path.stem not in folder.enrolled_names() and path.stem not in study.sites
    ]
    step = _next(kit, returned, parties(folder, study))
    return CoordinatorStatus(fingerprint(public), kit, returned, step)


def _next(kit: bool, returned: Sequence[str], listed: Sequence[Party]) -> NextStep:
    if returned:
        return NextStep(f"sltool study add {returned[0]}", "a site has joined")
    if not kit:
        return NextStep("sltool study kit", "study.yaml or its sites changed; send it to all")
    if not listed:
        why = "send study-kit.zip to the sites first; each sends back such a file"
        return NextStep("sltool study add NAME.pub", why)
    if old := [party.site for party in listed if party.differs]:
        why = f"send study-kit.zip to {', '.join(old)}, who joined another version"
        return NextStep("sltool study add NAME.pub", why)
    return NextStep("", "nothing; the sites and the server have what they need")


def _kit_is_current(folder: StudyFolder, study: Study) -> bool:
    if not folder.kit.is_file() or not folder.privacy_layer.is_file():
        return False
    try:
        kit = read_kit(folder.kit)
        packed = parse_study(kit.study, folder.kit)
    except SltoolError:
        # `study kit` writes it again.
        return False
    return packed == study and kit.layer == folder.privacy_layer.read_bytes()
