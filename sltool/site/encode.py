"""`client-encode`: run the privacy layer over a site's samples once, and write signed shards."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sltool.errors import StageOrderError, StudyMismatchError
from sltool.files import remove, sha256, write_json
from sltool.models.numpy_layer import PlainLayer
from sltool.models.privacy_layer_file import awaits_fit, known_shape
from sltool.progress import Advance, Progress
from sltool.randomised_response import RandomisedResponse
from sltool.shard.keys import SigningKey
from sltool.shard.manifest import MAX_SAMPLES, Content, Manifest, ShardId
from sltool.shard.writer import write_shard
from sltool.site import log
from sltool.site.backend import AnyEncoder, encoder_for, layer_shape, open_layer
from sltool.site.enrol import site_key
from sltool.site.liveness import MANY_DEAD
from sltool.site.outbox import batches_of, is_complete, shard_digest, shipped_names, with_batches
from sltool.site.private_file import PrivateFile, open_private
from sltool.site.responses import responses
from sltool.site.stage_records import BatchRecord, EncodedRecord, read_record
from sltool.site.withdrawals import Withdrawals, describe_withdrawn
from sltool.study.layout import SiteFolder, StudyFolder
from sltool.study.schema import SPLITS, Encoding, Study
from sltool.wording import plural

if TYPE_CHECKING:
    import torch
    from torch import nn

BATCH_ROWS = 256


@dataclass(frozen=True)
class EncodingResult:
    """The content of a site's outbox.

    `dead` is the fraction of the privacy layer's values that are zero or the same in every sample;
    None if the outbox was written by a version that did not count them. `new_samples` and
    `new_shards` are those of this call.
    """

    site: str
    samples: int
    shards: int
    bytes: int
    seconds: float
    again: bool
    dead: float | None
    new_samples: int = 0
    new_shards: int = 0


def encode(
    folder: StudyFolder,
    study: Study,
    site_name: str,
    progress: Progress,
    device: torch.device | None,
    shard_bytes: int,
    force: bool,
) -> EncodingResult:
    """Write the site's shards to `outbox/SITE`, unless the outbox is already complete.

    If the site has grown, shards of the new samples alone are added: they continue the series.

    Args:
        device: None: without torch.
    Raises:
        StageOrderError: this site has no private data or no key, or the study has a code and its
            privacy layer was not fitted.
        StudyMismatchError: the site's key is not the one in study.yaml.
    """
    started = time.monotonic()
    study.check_sites([site_name])
    site = folder.site(site_name)
    digest = study.encoding_digest(folder.privacy_layer)
    _check_fitted(folder, study)
    withdrawals = Withdrawals.read(folder)
    with open_private(site.private, study.id, "sltool partition") as private:
        key = site_key(site, study)
        allowed = withdrawals.allowed_at(site, private.text("pseudonyms"))
        withdrawn = int((~allowed).sum())
        state = {"encoding": digest, "private": sha256(site.private), "shard_bytes": shard_bytes}
        done = None if force else _done(site, private, state)
        spans = _spans(private)
        if done and len(batches_of(done)) == len(spans):
            _note_finished(site, done, withdrawn, progress)
            return _summary(site, done, time.monotonic() - started, again=True)
        _note_exclusions(site, withdrawn, study.encoding, progress, again=done is None)
        layer = open_layer(folder, study, device)
        content = Content.from_study(study, digest, checked_shape(folder, study, layer))
        encoder = encoder_for(study, layer, device, private.seed)
        labels = _labels_to_ship(site, private, study)
        record = done or new_record(state)
        _clear_outbox(site, record)
        remaining = spans[len(batches_of(record)) :]
        series = ShardSeries(site, content, key, shard_bytes, record)
        with progress.bar(f"encode {site_name}", remaining[-1][1] - remaining[0][0]) as advance:
            for batch, (start, stop) in enumerate(remaining, len(batches_of(record))):
                encoder.begin(batch)
                in_batch = allowed.copy()
                in_batch[:start] = in_batch[stop:] = False
                record = series.write(private, labels, in_batch, encoder, record, advance)
    new = record["samples"] - (done["samples"] if done else 0)
    new_shards = record["shards"][len(done["shards"]) if done else 0 :]
    record = {**record, "state": state, "withdrawn": withdrawn}
    if study.encoding.label_epsilon is not None:
        record["label_epsilon"] = study.encoding.label_epsilon
    if done is None:
        # Of the few samples of a month it would say little.
        record["dead"] = encoder.liveness.dead
        if encoder.liveness.dead >= MANY_DEAD:
            progress.note(_dead_values_warning(site_name, encoder.liveness.dead))
    log.append(
        site,
        "encoded",
        encoding=digest,
        samples=new,
        withdrawn=withdrawn,
        shards={name: record["digests"][name] for name in new_shards},
    )
    write_json(site.encoded, record)
    seconds = time.monotonic() - started
    return replace(
        _summary(site, record, seconds, again=False),
        new_samples=new,
        new_shards=len(new_shards),
    )


def _check_fitted(folder: StudyFolder, study: Study) -> None:
    if awaits_fit(folder.privacy_layer, study):
        raise StageOrderError(
            "the study's privacy layer ends in a code (model.code) and was not fitted: a code "
            "that was drawn at random is of little use",
            where=folder.privacy_layer,
            expected="a layer that `sltool fit-privacy-layer` has fitted, the same at all sites",
            hint="run `sltool fit-privacy-layer --site NAME` (or --source PATH, of public data) "
            "where study.yaml was made, and hand both files to all sites",
        )


def _spans(private: PrivateFile) -> list[tuple[int, int]]:
    """The rows (first, end) of the site's first samples, and of those of each time it has grown."""
    ends = [*(version["rows"] for version in private.versions), private.inputs.shape[0]]
    return list(zip([0, *ends[:-1]], ends, strict=True))


def _done(site: SiteFolder, private: PrivateFile, state: dict[str, Any]) -> EncodedRecord | None:
    """The record of the shards that stay as they are; None if all samples have to be encoded.

    They have to if the encoding or the site's samples are others, or if the outbox lacks shards
    that were not shipped. Without a shipped shard they also have to if the shards' size changes.
    """
    record = read_record(site.encoded, EncodedRecord)
    if record is None or record["state"].get("encoding") != state["encoding"]:
        return None
    versions = [*(version["sha256"] for version in private.versions), state["private"]]
    if record["state"].get("private") not in versions:
        return None
    shipped = shipped_names(site)
    if record["state"].get("shard_bytes") != state["shard_bytes"] and not shipped & {
        *record["shards"]
    }:
        return None
    whole = [batch for batch in batches_of(record) if is_complete(site, batch["shards"])]
    if len(whole) < len(batches_of(record)) and not any(
        shipped & {*batch["shards"]} for batch in whole
    ):
        return None
    kept = list(takewhile(lambda batch: is_complete(site, batch["shards"]), batches_of(record)))
    return with_batches(record, kept) if kept else None


def new_record(state: dict[str, Any]) -> EncodedRecord:
    return {"state": state, "samples": 0, "shards": [], "batches": [], "digests": {}}


def _note_finished(
    site: SiteFolder, done: EncodedRecord, withdrawn: int, progress: Progress
) -> None:
    if withdrawn > done.get("withdrawn", 0):
        progress.note(
            f"{site.outbox} still contains {describe_withdrawn(withdrawn)}: its shards "
            "were shipped, and the server excludes those rows; --force encodes the other "
            "samples only"
        )
    missing = [name for name in done["shards"] if not (site.outbox / name).is_file()]
    if missing:
        progress.note(
            f"{plural(len(missing), 'shard is', 'shards are')} no longer in {site.outbox}; shipped "
            "before (--force encodes all samples again)"
        )


def _note_exclusions(
    site: SiteFolder, withdrawn: int, encoding: Encoding, progress: Progress, again: bool
) -> None:
    """Notes on withdrawn samples, and on encoding shipped samples `again`."""
    if withdrawn:
        progress.note(f"site {site.name}: {describe_withdrawn(withdrawn)} are left out")
    if again and encoding.noise and site.shipped.is_file():
        progress.note(
            f"shards of site {site.name} were shipped before: each further noisy copy of a feature "
            "map lets an attacker average out more of the noise"
        )


def checked_shape(
    folder: StudyFolder, study: Study, layer: nn.Module | PlainLayer
) -> tuple[int, ...]:
    shape, known = layer_shape(layer, study), known_shape(folder.privacy_layer, study)
    if known not in (None, shape):
        raise StudyMismatchError(
            f"the model '{study.model.name}' gives feature maps of shape {shape}",
            where=folder.privacy_layer,
            expected=f"{known}, as when the study was made",
            hint="install the version of the model's plug-in that the study was made with",
        )
    return shape


def _summary(
    site: SiteFolder, record: EncodedRecord, seconds: float, again: bool
) -> EncodingResult:
    paths = [site.outbox / name for name in record["shards"]]
    size = sum(path.stat().st_size for path in paths if path.is_file())
    shards, dead = len(record["shards"]), record.get("dead")
    return EncodingResult(site.name, record["samples"], shards, size, seconds, again, dead)


def _dead_values_warning(site: str, dead: float) -> str:
    return (
        f"site {site}: {dead:.0%} of the privacy layer's values are zero or the same in every "
        "sample here, so that the server has little to learn from; `sltool prepare --force` draws "
        "another layer, for all sites, and model.activation=leaky-relu leaves fewer values at zero"
    )


def _labels_to_ship(site: SiteFolder, private: PrivateFile, study: Study) -> NDArray[Any]:
    """(N,) the labels of `private.h5`, or the randomised responses that stand for them."""
    epsilon = study.encoding.label_epsilon
    if epsilon is None:
        return private.labels
    method = RandomisedResponse(len(study.samples.labels.classes), epsilon)
    return responses(site, private.text("pseudonyms"), private.labels, method)


def _clear_outbox(site: SiteFolder, record: EncodedRecord) -> None:
    """Remove what `record` does not list: the output of an earlier or interrupted encoding.

    Without a shard in the record it is removed as well, so that `ship` sends nothing.
    """
    if not record["shards"]:
        remove(site.encoded)
    for split in SPLITS:
        for path in site.outbox.glob(f"{site.name}-{split}-*.h5*"):
            if path.name not in record["shards"]:
                remove(path)


class ShardSeries:
    """Writes a site's shards, each split's in a series of its own.

    Args:
        content: of all shards of the site.
        shard_bytes: size of a shard's feature maps, at most.
        record: of the shards that are there already; the new ones follow them.
        splits: those that are written, in this order.
    """

    def __init__(
        self,
        site: SiteFolder,
        content: Content,
        key: SigningKey,
        shard_bytes: int,
        record: EncodedRecord,
        splits: Sequence[str] = SPLITS,
    ) -> None:
        self._site = site
        self._splits = splits
        self._content = content
        self._key = key
        self._shard_bytes = shard_bytes
        self._next: dict[str, int] = {}
        self._previous: dict[str, str | None] = {}
        for split in splits:
            names = [name for name in record["shards"] if name.split("-")[1] == split]
            self._next[split] = len(names)
            self._previous[split] = shard_digest(site, record, names[-1]) if names else None

    def write(
        self,
        private: PrivateFile,
        labels: NDArray[Any],
        allowed: NDArray[np.bool_],
        encoder: AnyEncoder,
        record: EncodedRecord,
        advance: Advance,
    ) -> EncodedRecord:
        """Write the shards of the allowed rows, split by split; returns the record with them.

        Args:
            labels: (N,) the labels to ship, of the rows of `private.h5`.
            allowed: (N,) which rows of `private.h5` to encode.
        """
        splits = np.array(private.text("split"))
        manifests = [
            self._write_shard(private, labels, split, rows, encoder, advance)
            for split in self._splits
            for rows in _chunks(
                np.flatnonzero((splits == split) & allowed),
                _samples_per_shard(self._content.for_split(split), self._shard_bytes),
            )
        ]
        batch = BatchRecord(
            samples=sum(manifest.samples for manifest in manifests),
            shards=[manifest.place.name for manifest in manifests],
        )
        digests = {manifest.place.name: manifest.digest for manifest in manifests}
        grown: EncodedRecord = {**record, "digests": {**record.get("digests", {}), **digests}}
        return with_batches(grown, [*batches_of(record), batch])

    def _write_shard(
        self,
        private: PrivateFile,
        labels: NDArray[Any],
        split: str,
        rows: NDArray[np.int64],
        encoder: AnyEncoder,
        advance: Advance,
    ) -> Manifest:
        content = self._content.for_split(split)
        manifest = write_shard(
            self._site.outbox,
            content,
            ShardId(site=self._site.name, split=split, sequence=self._next[split]),
            self._previous[split],
            encoded(private, rows, content.views, encoder, advance),
            replace(private.rows(rows), labels=labels[rows]),
            self._key,
        )
        self._next[split] += 1
        self._previous[split] = manifest.digest
        return manifest


def _chunks(rows: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    """The rows in chunks of at most `size`."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _samples_per_shard(content: Content, shard_bytes: int) -> int:
    return min(MAX_SAMPLES, max(1, shard_bytes // content.sample_bytes))


def encoded(
    private: PrivateFile,
    rows: NDArray[np.int64],
    views: int,
    encoder: AnyEncoder,
    advance: Advance,
) -> Iterator[NDArray[Any]]:
    """The feature maps of these rows, which are ascending; rows in between were withdrawn."""
    start = int(rows[0])
    selected = np.zeros(int(rows[-1]) + 1 - start, np.bool_)
    selected[rows - start] = True
    done = 0
    for batch in private.batches(start, start + len(selected), max(1, BATCH_ROWS // views)):
        in_batch = selected[done : done + len(batch)]
        done += len(batch)
        if in_batch.any():
            yield encoder(batch if in_batch.all() else batch[in_batch], views)
        advance(len(batch))
