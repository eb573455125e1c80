"""`join` at a site: check a kit, unpack it, and enrol the site."""

from __future__ import annotations

from dataclasses import dataclass

from sltool.coordinator.create import make_dataset
from sltool.coordinator.unpack import Unpacked, kit_study, unpack_kit
from sltool.shard.kit import Kit
from sltool.shard.public_key_file import PublicKeyFile
from sltool.site import log
from sltool.site.enrol import check_distinct, check_unclaimed, enrol_here
from sltool.study.layout import StudyFolder


@dataclass(frozen=True)
class Joined:
    """A site that has joined.

    Attributes:
        unpacked: the study, and who signed the kit.
        enrolled: what `SITE.pub` says, which goes back to the coordinator.
        columns: what the study asks a site's table for; [] where the source is not a table.
        encode_again: whether shards were encoded before, with another version of the encoding.
    """

    unpacked: Unpacked
    enrolled: PublicKeyFile
    columns: list[str]
    encode_again: bool


def join(
    folder: StudyFolder, kit: Kit, site_name: str, confirmed: str | None, force: bool
) -> Joined:
    """Unpack a kit in this folder and make the site's keys.

    The arguments, and what is raised, are those of `unpack_kit` and `enrol_here`.
    """
    site = folder.site(site_name)
    check_distinct(folder, kit_study(kit), [site_name])
    check_unclaimed(kit_study(kit), site)
    unpacked = unpack_kit(folder, kit, confirmed, force)
    enrolled = enrol_here(folder, unpacked.study, site_name)
    log.append_once(
        site,
        "joined",
        kit=kit.digest,
        agreement=unpacked.agreement,
        coordinator=unpacked.fingerprint,
    )
    return Joined(
        unpacked,
        enrolled,
        make_dataset(unpacked.study).column_names(),
        encode_again=site.encoded.is_file() and bool(set(unpacked.changed) & ENCODED),
    )


# The parts of the agreement that the encoding digest covers.
ENCODED = {"dataset", "samples", "model", "encoding", "privacy_layer"}
