"""`client-encode`: run the privacy layer over a site's samples once, and write signed shards."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sltool.errors import BadDataError, StageOrderError, StudyMismatchError
from sltool.files import remove, sha256, write_json
from sltool.layout import SiteFolder, StudyFolder
from sltool.models.base import feature_shape, load_weights, outline
from sltool.progress import Advance, Progress
from sltool.shard.keys import SigningKey
from sltool.shard.manifest import MAX_SAMPLES, Content, Manifest, Place
from sltool.shard.payload import GROUP_BYTES, ID_BYTES, Rows
from sltool.shard.writer import write_shard
from sltool.site.augment import Augmenter
from sltool.site.liveness import MANY_DEAD, Liveness
from sltool.site.private import PrivateFile, open_private
from sltool.site.records import EncodedRecord, read_record
from sltool.study import SPLITS, Encoding, Study

SLAB = 256


@dataclass(frozen=True)
class Encoded:
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


def load_privacy_layer(folder: StudyFolder, study: Study) -> nn.Module:
    """The privacy layer with the study's weights, for inference.

    Raises:
        StageOrderError: the weights are missing.
        BadDataError: the file is damaged.
        StudyMismatchError: they do not fit the model.
    """
    path = folder.privacy_layer
    study.encoding_digest(path)
    layer = outline(study).privacy_layer
    load_weights(
        layer,
        path,
        "the privacy layer",
        "take study.yaml and privacy-layer.safetensors from the same study; without the file, "
        "`sltool prepare --force` makes new weights, for all sites",
    )
    return layer.eval()


def encode(
    folder: StudyFolder,
    study: Study,
    site_name: str,
    progress: Progress,
    device: torch.device,
    shard_bytes: int,
    force: bool,
) -> Encoded:
    """Fill `outbox/SITE`; recognises an outbox that is already complete.

    Raises:
        StageOrderError: there is no private data or no key of this site.
        StudyMismatchError: the site's key is not the one in study.yaml.
    """
    started = time.monotonic()
    study.check_sites([site_name])
    site = folder.site(site_name)
    digest = study.encoding_digest(folder.privacy_layer)
    with open_private(site.private, study.id, "sltool partition") as private:
        key = site_key(site, study)
        state = {"encoding": digest, "private": sha256(site.private), "shard_bytes": shard_bytes}
        done = read_record(site.encoded, EncodedRecord)
        if not force and done and done["state"] == state and _complete(site, done["shards"]):
            return _summary(site, done, time.monotonic() - started, again=True)
        layer = load_privacy_layer(folder, study).to(device)
        content = Content.of(study, digest, feature_shape(study))
        encoder = Encoder(study, layer, device, private.seed)
        _empty(site)
        with progress.bar(f"encode {site_name}", private.inputs.shape[0]) as advance:
            shards = list(_write_all(site, private, content, encoder, key, shard_bytes, advance))
    record: EncodedRecord = {
        "state": state,
        "samples": sum(manifest.samples for manifest in shards),
        "shards": [manifest.place.name for manifest in shards],
        "dead": encoder.liveness.dead,
    }
    if encoder.liveness.dead >= MANY_DEAD:
        progress.note(_warning(site_name, encoder.liveness.dead))
    write_json(site.encoded, record)
    return _summary(site, record, time.monotonic() - started, again=False)


def site_key(site: SiteFolder, study: Study) -> SigningKey:
    """The site's private key, which study.yaml must list.

    Raises:
        StageOrderError: the site has none.
        StudyMismatchError: study.yaml lists another.
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
            hint=f"enter {key.public} under sites.{site.name}.key, or bring back the old key",
        )
    return key


def _complete(site: SiteFolder, shards: list[str]) -> bool:
    return all((site.outbox / name).is_file() for name in shards)


def _summary(site: SiteFolder, record: EncodedRecord, seconds: float, again: bool) -> Encoded:
    size = sum((site.outbox / name).stat().st_size for name in record["shards"])
    shards, dead = len(record["shards"]), record.get("dead")
    return Encoded(site.name, record["samples"], shards, size, seconds, again, dead)


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
    """

    def __init__(self, study: Study, layer: nn.Module, device: torch.device, seed: int) -> None:
        columns = (1, -1) + (1,) * (len(study.samples.shape) - 1)
        self._mean = torch.tensor(study.samples.mean, device=device).reshape(columns)
        self._sd = torch.tensor(study.samples.sd, device=device).reshape(columns)
        self._layer = layer
        self._device = device
        self._settings = study.encoding
        self._dtype = getattr(torch, study.encoding.dtype)
        self._noise = torch.Generator(device).manual_seed(seed)
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
        maps = protect(maps, self._settings, self._noise)
        maps = maps.to(self._dtype)
        if not torch.isfinite(maps).all():
            raise BadDataError(
                f"a feature map does not fit {self._settings.dtype}",
                hint="set encoding.dtype to float32 in study.yaml, for all sites",
            )
        return np.asarray(maps.cpu().numpy())


def protect(
    maps: torch.Tensor, settings: Encoding, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Feature maps (n, ...) clipped to the L2 norm, and with the noise, that the study says."""
    if settings.clip is not None:
        norms = maps.flatten(1).norm(dim=1).clamp(min=settings.clip)
        maps = maps * (settings.clip / norms).reshape(-1, *(1,) * (maps.dim() - 1))
    if settings.noise:
        noise = torch.randn(maps.shape, generator=generator, device=maps.device)
        maps = maps + settings.noise * noise
    return maps


def _write_all(
    site: SiteFolder,
    private: PrivateFile,
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
        held = content.of_split(split)
        rows = np.flatnonzero(splits == split)
        previous = None
        for sequence, part in enumerate(_cut(rows, _samples_per_shard(held, shard_bytes))):
            start, stop = int(part[0]), int(part[-1]) + 1
            manifest = write_shard(
                site.outbox,
                held,
                Place(site=site.name, split=split, sequence=sequence),
                previous,
                _encoded(private, start, stop, held.views, encoder, advance),
                Rows(labels[start:stop], pseudonyms[start:stop], groups[start:stop]),
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
    private: PrivateFile, start: int, stop: int, views: int, encoder: Encoder, advance: Advance
) -> Iterator[NDArray[Any]]:
    for slab in private.slabs(start, stop, max(1, SLAB // views)):
        yield encoder(slab, views)
        advance(len(slab))


def outbox_shards(site: SiteFolder) -> list[Path]:
    """The finished shards of a site.

    Raises:
        StageOrderError: `client-encode` has not finished.
    """
    record = read_record(site.encoded, EncodedRecord)
    if not record or not _complete(site, record["shards"]):
        raise StageOrderError(
            f"site {site.name} has nothing to ship",
            where=site.outbox,
            hint=f"run `sltool client-encode --site {site.name}` first",
        )
    return [site.outbox / name for name in record["shards"]]
