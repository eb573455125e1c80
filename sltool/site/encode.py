"""`client-encode`: run the privacy layer over a site's samples once, and write signed shards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sltool.errors import BadDataError, StudyMismatchError
from sltool.files import remove, sha256, write_json
from sltool.models.base import output_shape
from sltool.models.privacy_layer_file import known_shape, load_privacy_layer
from sltool.progress import Advance, Progress
from sltool.shard.keys import SigningKey
from sltool.shard.manifest import MAX_SAMPLES, Content, Manifest, ShardId
from sltool.shard.payload import GROUP_BYTES, ID_BYTES, Rows
from sltool.shard.writer import write_shard
from sltool.site.augment import Augmenter
from sltool.site.enrol import site_key
from sltool.site.liveness import MANY_DEAD, Liveness
from sltool.site.noise import fresh_noise
from sltool.site.outbox import is_complete
from sltool.site.private_file import PrivateFile, open_private
from sltool.site.stage_records import EncodedRecord, read_record
from sltool.site.withdrawals import Withdrawals, told
from sltool.study.layout import SiteFolder, StudyFolder
from sltool.study.schema import SPLITS, Encoding, Study

BATCH_ROWS = 256


@dataclass(frozen=True)
class EncodingResult:
    """What lies in a site's outbox.

    `dead` is the share of the privacy layer's values that are zero or the same in every sample;
    None for an outbox of before this was counted.
    """

    site: str
    samples: int
    shards: int
    bytes: int
    seconds: float
    again: bool
    dead: float | None


def encode(
    folder: StudyFolder,
    study: Study,
    site_name: str,
    progress: Progress,
    device: torch.device,
    shard_bytes: int,
    force: bool,
) -> EncodingResult:
    """Fill `outbox/SITE`; recognises an outbox that is already complete.

    Raises:
        StageOrderError: there is no private data or no key of this site.
        StudyMismatchError: the site's key is not the one in study.yaml.
    """
    started = time.monotonic()
    study.check_sites([site_name])
    site = folder.site(site_name)
    digest = study.encoding_digest(folder.privacy_layer)
    withdrawals = Withdrawals.read(folder)
    with open_private(site.private, study.id, "sltool partition") as private:
        key = site_key(site, study)
        keep = withdrawals.keeps_at(site, private.text("pseudonyms"))
        gone = int((~keep).sum())
        state = {"encoding": digest, "private": sha256(site.private), "shard_bytes": shard_bytes}
        done = read_record(site.encoded, EncodedRecord)
        if not force and done and done["state"] == state and is_complete(site, done["shards"]):
            if gone > done.get("withdrawn", 0):
                progress.note(
                    f"{site.outbox} still holds {told(gone)}: shards were shipped, and the server "
                    "leaves those rows out; --force encodes the others alone"
                )
            return _summary(site, done, time.monotonic() - started, again=True)
        _tell(site, gone, study.encoding, progress)
        layer = load_privacy_layer(folder, study)
        content = Content.from_study(study, digest, _shape(folder, study, layer))
        encoder = Encoder(study, layer.to(device), device, private.seed)
        _empty(site)
        with progress.bar(f"encode {site_name}", private.inputs.shape[0]) as advance:
            written = _write_all(site, private, keep, content, encoder, key, shard_bytes, advance)
            shards = list(written)
    record: EncodedRecord = {
        "state": state,
        "samples": sum(manifest.samples for manifest in shards),
        "shards": [manifest.place.name for manifest in shards],
        "withdrawn": gone,
        "dead": encoder.liveness.dead,
    }
    if encoder.liveness.dead >= MANY_DEAD:
        progress.note(_warning(site_name, encoder.liveness.dead))
    write_json(site.encoded, record)
    return _summary(site, record, time.monotonic() - started, again=False)


def _tell(site: SiteFolder, gone: int, encoding: Encoding, progress: Progress) -> None:
    if gone:
        progress.note(f"site {site.name}: {told(gone)} are left out")
    if encoding.noise and site.shipped.is_file():
        progress.note(
            f"shards of site {site.name} were shipped before: the mean of several noisy copies of "
            "a feature map comes closer to the clean one with each"
        )


def _shape(folder: StudyFolder, study: Study, layer: nn.Module) -> tuple[int, ...]:
    shape, known = output_shape(layer, study), known_shape(folder.privacy_layer, study)
    if known not in (None, shape):
        raise StudyMismatchError(
            f"the model '{study.model.name}' makes feature maps of shape {shape}",
            where=folder.privacy_layer,
            expected=f"{known}, as when the study was made",
            hint="take the version of the model's plug-in that the study was made with",
        )
    return shape


def _summary(
    site: SiteFolder, record: EncodedRecord, seconds: float, again: bool
) -> EncodingResult:
    size = sum((site.outbox / name).stat().st_size for name in record["shards"])
    shards, dead = len(record["shards"]), record.get("dead")
    return EncodingResult(site.name, record["samples"], shards, size, seconds, again, dead)


def _warning(site: str, dead: float) -> str:
    return (
        f"site {site}: {dead:.0%} of the privacy layer's values are zero or the same in every "
        "sample here, so that the server has little to learn from; `sltool prepare --force` draws "
        "another layer, for all sites, and model.activation=leaky-relu leaves fewer values at zero"
    )


def _empty(site: SiteFolder) -> None:
    """Take away what an earlier or broken encoding left, so that `ship` cannot send it."""
    remove(site.encoded)
    for path in (*site.outbox.glob("*.h5"), *site.outbox.glob("*.h5.part")):
        remove(path)


class Encoder:
    """Samples -> what travels: standardise, privacy layer, clip, noise, dtype.

    `liveness` counts what the privacy layer gave.

    Args:
        seed: of the random versions of training images. The noise follows from nothing.
    """

    def __init__(self, study: Study, layer: nn.Module, device: torch.device, seed: int) -> None:
        columns = (1, -1) + (1,) * (len(study.samples.shape) - 1)
        self._mean = torch.tensor(study.samples.mean, device=device).reshape(columns)
        self._sd = torch.tensor(study.samples.sd, device=device).reshape(columns)
        # Pooling takes a third of the time where the channels of a pixel lie together.
        self._layer: nn.Module = layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._device = device
        self._settings = study.encoding
        self._dtype = getattr(torch, study.encoding.dtype)
        self._augment = Augmenter(study.encoding, seed)
        self.liveness = Liveness()

    @torch.inference_mode()
    def __call__(self, inputs: NDArray[Any], views: int = 1) -> NDArray[Any]:
        """(n, *shape) in the source's units -> (n * views, *feature_shape) in the shard's dtype.

        The first view of a sample is of the sample itself, the others of random versions of it.

        Raises:
            BadDataError: a value does not fit the dtype.
        """
        x = torch.from_numpy(inputs).to(self._device, torch.float32)
        x = self._augment(x, views)
        maps = self._layer((x - self._mean) / self._sd)
        self.liveness.add(maps)
        maps = clip_and_add_noise(maps, self._settings, fresh_noise)
        maps = maps.to(self._dtype).contiguous()
        if not torch.isfinite(maps).all():
            raise BadDataError(
                f"a feature map does not fit {self._settings.dtype}",
                hint="set encoding.dtype to float32 in study.yaml, for all sites",
            )
        return np.asarray(maps.cpu().numpy())


def clip_and_add_noise(
    maps: torch.Tensor, settings: Encoding, noise: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Feature maps (n, ...) clipped to the L2 norm, and with the noise, that the study says.

    Args:
        noise: maps -> standard normal numbers of the same shape.
    """
    if settings.clip is not None:
        norms = maps.flatten(1).norm(dim=1).clamp(min=settings.clip)
        maps = maps * (settings.clip / norms).reshape(-1, *(1,) * (maps.dim() - 1))
    if settings.noise:
        maps = torch.add(maps, noise(maps), alpha=settings.noise)
    return maps


def _write_all(
    site: SiteFolder,
    private: PrivateFile,
    keep: NDArray[np.bool_],
    content: Content,
    encoder: Encoder,
    key: SigningKey,
    shard_bytes: int,
    advance: Advance,
) -> Iterator[Manifest]:
    labels = private.labels
    splits = np.array(private.text("split"))
    pseudonyms = np.array(private.text("pseudonyms"), dtype=f"S{ID_BYTES}")
    groups = np.array(private.text("group_pseudonyms"), dtype=f"S{GROUP_BYTES}")
    for split in SPLITS:
        held = content.for_split(split)
        rows = np.flatnonzero((splits == split) & keep)
        previous = None
        for sequence, part in enumerate(_cut(rows, _samples_per_shard(held, shard_bytes))):
            manifest = write_shard(
                site.outbox,
                held,
                ShardId(site=site.name, split=split, sequence=sequence),
                previous,
                _encoded(private, part, held.views, encoder, advance),
                Rows(labels[part], pseudonyms[part], groups[part]),
                key,
            )
            previous = manifest.digest
            yield manifest


def _cut(rows: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    """A split's rows lie together in `private.h5`; cut them into shards."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _samples_per_shard(content: Content, shard_bytes: int) -> int:
    return min(MAX_SAMPLES, max(1, shard_bytes // content.sample_bytes))


def _encoded(
    private: PrivateFile,
    rows: NDArray[np.int64],
    views: int,
    encoder: Encoder,
    advance: Advance,
) -> Iterator[NDArray[Any]]:
    """The feature maps of these rows, which ascend; what lies between them was withdrawn."""
    start = int(rows[0])
    keep = np.zeros(int(rows[-1]) + 1 - start, np.bool_)
    keep[rows - start] = True
    done = 0
    for batch in private.batches(start, start + len(keep), max(1, BATCH_ROWS // views)):
        kept = keep[done : done + len(batch)]
        done += len(batch)
        if kept.any():
            yield encoder(batch if kept.all() else batch[kept], views)
        advance(len(batch))
