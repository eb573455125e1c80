"""The data of an audit: the shards in the outbox, and the samples they were encoded from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sltool.errors import BadDataError
from sltool.models.base import feature_shape
from sltool.shard.manifest import Content
from sltool.shard.packing import unpack_values
from sltool.shard.reader import ShardReader, open_shard
from sltool.site.audit.attacker import Budget, Pairs
from sltool.site.audit.patients import Grouping, by_name, by_similarity, names_patients
from sltool.site.outbox import outbox_shards
from sltool.site.private_file import PrivateFile, open_private
from sltool.study.layout import SiteFolder, StudyFolder
from sltool.study.schema import Study
from sltool.wording import plural

Array = NDArray[Any]

ROWS = 256
FEWEST = 20


@dataclass(frozen=True)
class Evidence:
    """The samples of an audit.

    Attributes:
        pairs: at most `Budget.samples` of the site's samples, in random order.
        shipped_labels: (n,) the labels of `pairs` as shipped; other than theirs if they are
            randomised responses.
        shipped: number of samples in the shards.
        low, high: the values in the source's units that 0 and 1 stand for; of images.
        seed: the site's seed, which determines all random choices of the audit.
    """

    pairs: Pairs
    shipped_labels: Array
    grouping: Grouping
    shipped: int
    low: float
    high: float
    seed: int


def gather(folder: StudyFolder, study: Study, site: SiteFolder, budget: Budget) -> Evidence:
    """The site's samples and their feature maps in the outbox.

    If there are more samples than the budget allows, the site's seed determines the selection.

    Raises:
        StageOrderError: nothing is encoded.
        BadDataError: the shards are of other samples, or there are too few.
    """
    digest = study.encoding_digest(folder.privacy_layer)
    content = Content.from_study(study, digest, feature_shape(study))
    with open_private(site.private, study.id, "sltool partition") as private:
        rows = {name: row for row, name in enumerate(private.text("pseudonyms"))}
        names = private.text("group_pseudonyms")
        shards = outbox_shards(site)
        order, labels = _shipped_rows(shards, study, content, rows)
        if len(order) < FEWEST:
            raise BadDataError(
                f"site {site.name} has shipped {plural(len(order), 'sample')}, too few to audit",
                where=site.outbox,
                expected=f"{FEWEST} or more",
            )
        rng = np.random.default_rng([private.seed, 0x41554449])
        chosen = _choose(order, names, budget.samples, rng)
        shipped = _shipped(shards, study, content, rows, set(chosen.tolist()))
        return _evidence(private, study, chosen, order, names, shipped, labels, rng)


def _shipped_rows(
    shards: list[Path], study: Study, content: Content, rows: dict[str, int]
) -> tuple[Array, dict[int, Any]]:
    """The rows of `private.h5` that the shards contain, in the shards' order, and their labels."""
    shipped = []
    labels: dict[int, Any] = {}
    for path in shards:
        with open_shard(path, study, content, arriving=False) as reader:
            arrived = reader.rows()
            for name, label in zip(arrived.pseudonyms, arrived.labels, strict=True):
                if name.decode() not in rows:
                    raise _other_samples(path)
                shipped.append(rows[name.decode()])
                labels[shipped[-1]] = label
    return np.array(shipped, dtype=np.int64), labels


def _other_samples(path: Path) -> BadDataError:
    return BadDataError(
        "the shard contains samples that are not in the site's private.h5",
        where=path,
        hint="run `sltool client-encode --force`, then audit again",
    )


def _choose(order: Array, names: list[str], most: int, rng: np.random.Generator) -> Array:
    """At most `most` rows, patient by patient if the source names patients; in shard order."""
    if len(order) <= most:
        return order
    groups = by_name([names[row] for row in order]).groups
    ranks = rng.permutation(int(groups.max()) + 1)[groups]
    return order[np.sort(np.argsort(ranks, kind="stable")[:most])]


@dataclass(frozen=True)
class _Shipped:
    """What was shipped of n samples: `maps`, `means` and `views` of `Pairs`."""

    maps: Array
    means: Array
    views: Array


def _shipped(
    shards: list[Path], study: Study, content: Content, rows: dict[str, int], chosen: set[int]
) -> _Shipped:
    """The feature maps of the chosen samples, in the shards' order, as float32."""
    parts = []
    for path in shards:
        with open_shard(path, study, content, arriving=False) as reader:
            in_audit = [rows[name.decode()] in chosen for name in reader.rows().pseudonyms]
            parts.append(_shipped_in(reader, np.array(in_audit, bool)))
    maps = np.concatenate([part.maps for part in parts])
    views = np.concatenate([part.views for part in parts])
    several = (views > 1).any()
    means = np.concatenate([part.means for part in parts]) if several else maps
    return _Shipped(maps, means, views)


def _shipped_in(reader: ShardReader, in_audit: Array) -> _Shipped:
    """The same of one shard's samples, of which those `in_audit` (n,) count."""
    content = reader.manifest.content
    views, place = content.views, np.cumsum(in_audit) - 1
    shape = (int(in_audit.sum()), *content.feature_shape)
    total = np.zeros(shape, np.float32)
    first = total if views == 1 else np.empty_like(total)
    start = 0
    for block in reader.features(ROWS):
        samples, view = np.divmod(np.arange(start, start + len(block)), views)
        start += len(block)
        for index in np.unique(view):
            selected = np.flatnonzero((view == index) & in_audit[samples])
            maps = _values(block[selected], content)
            total[place[samples[selected]]] += maps
            if index == 0:
                first[place[samples[selected]]] = maps
    total /= views
    return _Shipped(first, total, np.full(len(first), views))


def _values(maps: Array, content: Content) -> Array:
    """Feature maps as stored -> float32."""
    if content.scale is None:
        return maps.astype(np.float32)
    return unpack_values(maps, content.scale, content.feature_shape)


def _evidence(
    private: PrivateFile,
    study: Study,
    chosen: Array,
    order: Array,
    names: list[str],
    shipped: _Shipped,
    labels: dict[int, Any],
    rng: np.random.Generator,
) -> Evidence:
    raw = _read_inputs(private, chosen)
    low, high = (0.0, 255.0) if raw.dtype == np.uint8 else (float(raw.min()), float(raw.max()))
    if raw.ndim == 4:
        inputs = ((raw.astype(np.float32) - low) / max(high - low, 1e-12)).astype(np.float32)
    else:
        sd = np.array(study.samples.sd)
        inputs = ((raw - np.array(study.samples.mean)) / sd).astype(np.float32)
    if names_patients(private):
        grouping = by_name([names[row] for row in chosen])
    else:
        grouping = by_similarity(inputs)
    shuffled = rng.permutation(len(chosen))
    known = (private.labels[chosen], grouping.groups, shipped.means, shipped.views)
    pairs = Pairs(inputs, shipped.maps, *known).part(shuffled)
    shipped_labels = np.array([labels[row] for row in chosen[shuffled]])
    return Evidence(pairs, shipped_labels, grouping, len(order), low, high, private.seed)


def _read_inputs(private: PrivateFile, chosen: Array) -> Array:
    """The inputs of the chosen rows, in their order, read in blocks."""
    selected = np.zeros(private.inputs.shape[0], bool)
    selected[chosen] = True
    blocks, start = [], 0
    for batch in private.batches(0, len(selected)):
        blocks.append(batch[selected[start : start + len(batch)]])
        start += len(batch)
    position = np.cumsum(selected) - 1
    return np.asarray(np.concatenate(blocks)[position[chosen]])
