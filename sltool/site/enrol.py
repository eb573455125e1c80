"""A site's key pair."""

from __future__ import annotations

from collections.abc import Sequence

from sltool.errors import StudyMismatchError
from sltool.layout import StudyFolder
from sltool.shard.keys import SigningKey
from sltool.study import Site, Study
from sltool.studyfile import add_sites


def enrol(folder: StudyFolder, study: Study, names: Sequence[str]) -> dict[str, str]:
    """Make the keys that are missing and enter those sites in this copy of study.yaml.

    Returns:
        Each site's public key.

    Raises:
        StudyMismatchError: study.yaml lists another key for a site.
    """
    keys = {name: SigningKey.load_or_create(folder.site(name).key).public for name in names}
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
