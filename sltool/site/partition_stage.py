"""`partition` in a study's folder: simulated sites or one real site; skips finished work."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from sltool.errors import UsageError
from sltool.files import canonical_json, remove, write_json
from sltool.progress import Progress
from sltool.site.column_sites import sites_by_column
from sltool.site.division import Division
from sltool.site.enrol import check_distinct, enrol
from sltool.site.grow import grow
from sltool.site.partition import SHOWN, partition
from sltool.site.private_file import open_private
from sltool.study.layout import StudyFolder
from sltool.study.partition_record import PartitionRecord
from sltool.study.schema import SPLITS, Study
from sltool.study.study_file import load_study


@dataclass(frozen=True)
class PartitionResult:
    """Samples of each split at each site; `again` if the sites had been made before.

    Attributes:
        division: how the samples were divided, in words.
        seed: of simulated sites; None at a real one.
        new: the samples of each split that joined a site whose source has grown; None if the sites
            were made, or had been made before.
    """

    counts: dict[str, dict[str, int]]
    again: bool
    division: str
    seed: int | None
    new: dict[str, int] | None = None


def make_sites(
    folder: StudyFolder,
    division: Division,
    seed: int | None,
    force: bool,
    progress: Progress,
) -> PartitionResult:
    """Make `sites/NAME` and a key for each site, and list the sites in study.yaml.

    The new samples of a real site whose source has grown join those that are there (`grow`).

    Args:
        seed: of the simulated sites, by default 0; not used at a real site, which draws from the
            system's entropy.

    Raises:
        StageOrderError: nothing is prepared.
        UsageError: a site would be left empty, the source has no such column, or the folder holds
            other sites.
        BadDataError: the real site was made from another source.
    """
    seed = _chosen_seed(division, seed, progress)
    study = load_study(folder)
    names, state = _names_and_state(folder, study, division, seed)
    check_distinct(folder, study, names)
    stale = sorted(set(folder.site_names()) - set(names)) if division.simulated else []
    # Files that --force replaces need not be readable.
    before = {} if force else _before(folder, study, [*names, *stale])
    if not force:
        if len(before) == len(names) and set(before.values()) == {state}:
            enrol(folder, study, names)
            counts = {name: _counts(folder, study, name) for name in names}
            return _recorded(folder, division, PartitionResult(counts, True, "", seed))
        if division.site is not None and before and not _is_simulated(folder, study, division.site):
            new = grow(folder, study, folder.site(division.site), progress, state)
            enrol(folder, study, names)
            counts = {division.site: _counts(folder, study, division.site)}
            return _recorded(folder, division, PartitionResult(counts, False, "", seed, new))
        if set(before.values()) - {state}:
            raise UsageError(
                f"there are sites here ({_some(list(before))}) that were made from other samples, "
                "options or seed",
                where=folder.sites,
                hint=_force_hint(names, stale),
            )
    assignment = partition(folder, study, division, progress, seed, state)
    for name in stale:
        remove(folder.site(name).private)
    enrol(folder, study, names)
    return _recorded(folder, division, PartitionResult(assignment.counts(), False, "", seed))


def _recorded(folder: StudyFolder, division: Division, result: PartitionResult) -> PartitionResult:
    """The result with the division in words, after writing `partition.json`."""
    result = replace(result, division=division.describe())
    record = PartitionRecord(
        division=result.division,
        options=division.document(),
        seed=result.seed,
        sites=result.counts,
    )
    write_json(folder.partition, record)
    return result


def _chosen_seed(division: Division, seed: int | None, progress: Progress) -> int | None:
    """The simulation's seed; None at a real site, whatever was asked for."""
    if division.simulated:
        return seed or 0
    if seed is not None:
        progress.note(
            "--seed is not used at a real site: anyone who knew it could infer the order of "
            "admission; split and order come from the system's entropy"
        )
    return None


def _force_hint(names: list[str], stale: list[str]) -> str:
    deletes = f"deletes the data of {_some(stale)} and " if stale else ""
    return (
        f"work in another folder; or --force {deletes}makes {_some(names)} with new "
        "pseudonyms, which do not match shards that were shipped before"
    )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _names_and_state(
    folder: StudyFolder, study: Study, division: Division, seed: int | None
) -> tuple[list[str], str]:
    """The sites' names, and a digest of what they are made from."""
    with open_private(folder.prepared, study.id, "sltool prepare") as prepared:
        made_from: dict[str, Any] = {
            "prepared": prepared.state,
            "split": study.split.model_dump(mode="json"),
            "seed": seed,
        }
        if division.by is not None:
            names = sites_by_column(prepared, division.by).names
        else:
            names = division.names
            made_from["shares"] = division.shares
    options = division.document()
    # Without a column and skews, names and shares say it all.
    if options.keys() - {"ratios", "site", "sites"}:
        made_from["division"] = options
    return names, hashlib.sha256(canonical_json({**made_from, "names": names})).hexdigest()


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
