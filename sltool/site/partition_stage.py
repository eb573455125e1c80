"""`partition` in a study's folder: simulated sites or one real site; skips finished work."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass

from sltool.errors import UsageError
from sltool.files import canonical_json, remove
from sltool.names import check_site_name
from sltool.progress import Progress
from sltool.site.enrol import enrol
from sltool.site.grow import grow
from sltool.site.partition import partition
from sltool.site.private_file import open_private
from sltool.site.split import parse_ratios, site_names
from sltool.study.layout import StudyFolder
from sltool.study.schema import SPLITS, Study
from sltool.study.study_file import load_study


@dataclass(frozen=True)
class PartitionResult:
    """Samples of each split at each site; `again` if the sites had been made before.

    `new` counts the samples of each split that joined a site whose source has grown; None if the
    sites were made, or had been made before.
    """

    counts: dict[str, dict[str, int]]
    again: bool
    new: dict[str, int] | None = None


def make_sites(
    folder: StudyFolder,
    ratios: str,
    site: str | None,
    seed: int | None,
    force: bool,
    progress: Progress,
) -> PartitionResult:
    """Make `sites/NAME` and a key for each site, and list the sites in study.yaml.

    The new samples of a real site whose source has grown join those that are there (`grow`).

    Args:
        ratios: shares of simulated sites A, B, C ..., such as '7:2:1'.
        site: the real site that all rows belong to; then `ratios` is not used.
        seed: of the simulated sites, by default 0; not used at a real site, which draws from the
            system's entropy.

    Raises:
        StageOrderError: nothing is prepared.
        UsageError: the ratios do not parse or leave a site empty, or the folder holds other sites.
        BadDataError: the real site was made from another source.
    """
    seed = _chosen_seed(site, seed, progress)
    study = load_study(folder)
    shares = parse_ratios(ratios) if site is None else [1.0]
    names = site_names(len(shares)) if site is None else [check_site_name(site)]
    state = _state(folder, study, shares, names, seed)
    stale = [] if site is not None else sorted(set(folder.site_names()) - set(names))
    # Files that --force replaces need not be readable.
    before = {} if force else _before(folder, study, [*names, *stale])
    if not force:
        if len(before) == len(names) and set(before.values()) == {state}:
            enrol(folder, study, names)
            return PartitionResult(
                {name: _counts(folder, study, name) for name in names}, again=True
            )
        if site is not None and before and not _is_simulated(folder, study, site):
            new = grow(folder, study, folder.site(site), progress, state)
            enrol(folder, study, names)
            return PartitionResult({site: _counts(folder, study, site)}, again=False, new=new)
        if set(before.values()) - {state}:
            raise UsageError(
                f"there are sites here ({', '.join(before)}) that were made from other samples, "
                "ratios or seed",
                where=folder.sites,
                hint=_force_hint(names, stale),
            )
    assignment = partition(folder, study, shares, names, progress, seed, state)
    for name in stale:
        remove(folder.site(name).private)
    enrol(folder, study, names)
    return PartitionResult(assignment.counts(), again=False)


def _chosen_seed(site: str | None, seed: int | None, progress: Progress) -> int | None:
    """The simulation's seed; None at a real site, whatever was asked for."""
    if site is None:
        return seed or 0
    if seed is not None:
        progress.note(
            "--seed is not used at a real site: anyone who knew it could infer the order of "
            "admission; split and order come from the system's entropy"
        )
    return None


def _force_hint(names: list[str], stale: list[str]) -> str:
    deletes = f"deletes the data of {', '.join(stale)} and " if stale else ""
    return (
        f"work in another folder; or --force {deletes}makes {', '.join(names)} with new "
        "pseudonyms, which do not match shards that were shipped before"
    )


def _state(
    folder: StudyFolder, study: Study, shares: list[float], names: list[str], seed: int | None
) -> str:
    with open_private(folder.prepared, study.id, "sltool prepare") as prepared:
        made_from = {
            "prepared": prepared.state,
            "split": study.split.model_dump(mode="json"),
            "shares": shares,
            "names": names,
            "seed": seed,
        }
    return hashlib.sha256(canonical_json(made_from)).hexdigest()


def _before(folder: StudyFolder, study: Study, names: list[str]) -> dict[str, str]:
    """The stored state of each of these sites that already exists."""
    states = {}
    for name in names:
        path = folder.site(name).private
        if path.is_file():
            with open_private(path, study.id, "sltool partition") as private:
                states[name] = private.state
    return states


def _is_simulated(folder: StudyFolder, study: Study, name: str) -> bool:
    with open_private(folder.site(name).private, study.id, "sltool partition") as private:
        return private.is_simulated


def _counts(folder: StudyFolder, study: Study, name: str) -> dict[str, int]:
    with open_private(folder.site(name).private, study.id, "sltool partition") as private:
        found = Counter(private.text("split"))
    return {split: found[split] for split in SPLITS}
