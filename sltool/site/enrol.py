"""A site's key pair."""

from __future__ import annotations

from collections.abc import Sequence

from sltool.errors import StageOrderError, StudyMismatchError
from sltool.names import check_case
from sltool.shard.encryption import make_identity
from sltool.shard.keys import SigningKey, key_id
from sltool.shard.public_key_file import PublicKeyFile, write_public_key
from sltool.site import log
from sltool.study.layout import SiteFolder, StudyFolder
from sltool.study.schema import Site, Study
from sltool.study.study_file import add_sites


def enrol(folder: StudyFolder, study: Study, names: Sequence[str]) -> dict[str, str]:
    """Make the missing keys, and add their sites to this copy of study.yaml.

    Returns:
        Site name -> its public key.

    Raises:
        StudyMismatchError: study.yaml lists another key for a site.
        UsageError: as `check_distinct`.
    """
    check_distinct(folder, study, names)
    keys = {name: _key(folder.site(name)).public for name in names}
    for name, public in keys.items():
        if name in study.sites and study.sites[name].key != public:
            raise StudyMismatchError(
                f"study.yaml lists another key for site {name}",
                where=folder.study_file,
                expected=public,
                hint=f"correct sites.{name}.key, or choose another name for this site",
            )
    new = {name: Site(key=public) for name, public in keys.items() if name not in study.sites}
    if new:
        add_sites(folder.study_file, new)
    return keys


def check_distinct(folder: StudyFolder, study: Study, names: Sequence[str]) -> None:
    """Raise `UsageError` for a name that differs from another site's in case alone."""
    known = {*study.sites, *folder.site_folders()}
    for name in set(names) - known:
        check_case("site", name, known)
        known.add(name)


def _key(site: SiteFolder) -> SigningKey:
    """The site's key, which is made if it is missing."""
    key = SigningKey.load_or_create(site.key)
    log.append_once(site, "enrolled", key=key_id(key.public))
    return key


def enrol_here(
    folder: StudyFolder, study: Study, name: str, encrypt: bool = False
) -> PublicKeyFile:
    """Enrol this hospital's site, and write `NAME.pub` for the study's coordinator.

    Args:
        encrypt: also make an age identity, for predictions; one that is there is always used.

    Raises:
        UsageError: there is or has to be an identity, and pyrage is not installed.
        StageOrderError: the privacy layer is missing.
        StudyMismatchError: study.yaml lists another key for the site.
    """
    site = folder.site(name)
    study.encoding_digest(folder.privacy_layer)
    check_unclaimed(study, site)
    recipient = make_identity(site.identity) if encrypt or site.identity.is_file() else None
    enrol(folder, study, [name])
    key = SigningKey.load(site.key)
    path = folder.public_key(name)
    return write_public_key(path, study, folder.privacy_layer, name, key, recipient)


def check_unclaimed(study: Study, site: SiteFolder) -> None:
    """Raise `StudyMismatchError` if the study lists a key for the site that is not here."""
    listed = study.sites.get(site.name)
    if listed is None or (site.key.is_file() and SigningKey.load(site.key).public == listed.key):
        return
    raise StudyMismatchError(
        f"the study lists another key for site {site.name} than is here",
        where=site.key,
        expected=listed.key,
        hint="restore the site's key from its backup, choose another --site, or have the "
        "coordinator change the key (docs/how-to/trust.md)",
    )


def site_key(site: SiteFolder, study: Study) -> SigningKey:
    """The site's private key, whose public key study.yaml must list.

    Raises:
        StageOrderError: the site has no key.
        StudyMismatchError: study.yaml lists another key.
    """
    if not site.key.is_file():
        raise StageOrderError(
            f"site {site.name} has no key",
            where=site.key,
            hint=f"run `sltool partition --site {site.name}` first",
        )
    key = SigningKey.load(site.key)
    if key.public != study.sites[site.name].key:
        raise StudyMismatchError(
            f"the key of site {site.name} is not the one in study.yaml",
            where=site.key,
            expected=study.sites[site.name].key,
            hint=f"enter {key.public} under sites.{site.name}.key, or restore the old key",
        )
    return key
