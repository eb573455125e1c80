"""`client-encode`: run the privacy layer over a site's samples once, and write signed shards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sltool.errors import StudyMismatchError
from sltool.files import remove, sha256, write_json
from sltool.models.numpy_layer import PlainLayer
from sltool.models.privacy_layer_file import known_shape
from sltool.progress import Advance, Progress
from sltool.shard.keys import SigningKey
from sltool.shard.manifest import MAX_SAMPLES, Content, Manifest, ShardId
from sltool.shard.payload import GROUP_BYTES, ID_BYTES, Rows
from sltool.shard.writer import write_shard
from sltool.site.augment import Augmenter
from sltool.site.backend import AnyEncoder, does_not_fit, encoder_for, layer_shape, open_layer
from sltool.site.enrol import site_key
from sltool.site.liveness import MANY_DEAD, Liveness
from sltool.site.noise import fresh_noise
from sltool.site.outbox import is_complete
from sltool.site.private_file import PrivateFile, open_private
from sltool.site.stage_records import EncodedRecord, read_record
from sltool.site.withdrawals import Withdrawals, describe_withdrawn
from sltool.study.layout import SiteFolder, StudyFolder
from sltool.study.schema import SPLITS, Encoding, Study

if TYPE_CHECKING:
    import torch
    from torch import nn

BATCH_ROWS = 256


@dataclass(frozen=True)
class EncodingResult:
    """The content of a site's outbox.

    `dead` is the fraction of the privacy layer's values that are zero or the same in every sample;
    None if the outbox was written by a version that did not count them.
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
    device: torch.device | None,
    shard_bytes: int,
    force: bool,
) -> EncodingResult:
    """Write the site's shards to `outbox/SITE`, unless the outbox is already complete.

    Args:
        device: None: without torch.

    Raises:
        StageOrderError: this site has no private data or no key.
        StudyMismatchError: the site's key is not the one in study.yaml.
    """
    started = time.monotonic()
    study.check_sites([site_name])
    site = folder.site(site_name)
    digest = study.encoding_digest(folder.privacy_layer)
    withdrawals = Withdrawals.read(folder)
    with open_private(site.private, study.id, "sltool partition") as private:
        key = site_key(site, study)
        allowed = withdrawals.allowed_at(site, private.text("pseudonyms"))
        withdrawn = int((~allowed).sum())
        state = {"encoding": digest, "private": sha256(site.private), "shard_bytes": shard_bytes}
        done = read_record(site.encoded, EncodedRecord)
        if not force and done and done["state"] == state and is_complete(site, done["shards"]):
            if withdrawn > done.get("withdrawn", 0):
                progress.note(
                    f"{site.outbox} still contains {describe_withdrawn(withdrawn)}: its shards "
                    "were shipped, and the server excludes those rows; --force encodes the other "
                    "samples only"
                )
            return _summary(site, done, time.monotonic() - started, again=True)
        _note_exclusions(site, withdrawn, study.encoding, progress)
        layer = open_layer(folder, study, device)
        content = Content.from_study(study, digest, _feature_shape(folder, study, layer))
        encoder = encoder_for(study, layer, device, private.seed)
        _clear_outbox(site)
        with progress.bar(f"encode {site_name}", private.inputs.shape[0]) as advance:
            shards = list(
                _write_shards(site, private, allowed, content, encoder, key, shard_bytes, advance)
            )
    record: EncodedRecord = {
        "state": state,
        "samples": sum(manifest.samples for manifest in shards),
        "shards": [manifest.place.name for manifest in shards],
        "withdrawn": withdrawn,
        "dead": encoder.liveness.dead,
    }
    if encoder.liveness.dead >= MANY_DEAD:
        progress.note(_dead_values_warning(site_name, encoder.liveness.dead))
    write_json(site.encoded, record)
    return _summary(site, record, time.monotonic() - started, again=False)


def _note_exclusions(
    site: SiteFolder, withdrawn: int, encoding: Encoding, progress: Progress
) -> None:
    if withdrawn:
        progress.note(f"site {site.name}: {describe_withdrawn(withdrawn)} are left out")
    if encoding.noise and site.shipped.is_file():
        progress.note(
            f"shards of site {site.name} were shipped before: each further noisy copy of a feature "
            "map lets an attacker average out more of the noise"
        )


def _feature_shape(
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
    size = sum((site.outbox / name).stat().st_size for name in record["shards"])
    shards, dead = len(record["shards"]), record.get("dead")
    return EncodingResult(site.name, record["samples"], shards, size, seconds, again, dead)


def _dead_values_warning(site: str, dead: float) -> str:
    return (
        f"site {site}: {dead:.0%} of the privacy layer's values are zero or the same in every "
        "sample here, so that the server has little to learn from; `sltool prepare --force` draws "
        "another layer, for all sites, and model.activation=leaky-relu leaves fewer values at zero"
    )


def _clear_outbox(site: SiteFolder) -> None:
    """Remove the output of an earlier or interrupted encoding, so that `ship` cannot send it."""
    remove(site.encoded)
    for path in (*site.outbox.glob("*.h5"), *site.outbox.glob("*.h5.part")):
        remove(path)


def without_gradients(method: Callable[..., NDArray[Any]]) -> Callable[..., NDArray[Any]]:
    """As `torch.inference_mode`; torch is imported when the method is called."""

    @wraps(method)
    def call(*arguments: Any) -> NDArray[Any]:
        import torch

        with torch.inference_mode():
            return method(*arguments)

    return call


class Encoder:
    """Encodes samples: standardisation, privacy layer, clipping, noise, conversion to the dtype.

    `liveness` counts dead values in the output of the privacy layer.

    Args:
        seed: of the random versions of training images. The noise does not depend on it.
    """

    def __init__(self, study: Study, layer: nn.Module, device: torch.device, seed: int) -> None:
        import torch

        columns = (1, -1) + (1,) * (len(study.samples.shape) - 1)
        self._mean = torch.tensor(study.samples.mean, device=device).reshape(columns)
        self._sd = torch.tensor(study.samples.sd, device=device).reshape(columns)
        # With the channels-last memory format, pooling takes a third of the time.
        self._layer: nn.Module = layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._device = device
        self._settings = study.encoding
        self._dtype = getattr(torch, study.encoding.dtype)
        self._augment = Augmenter(study.encoding, seed)
        self.liveness = Liveness()

    @without_gradients
    def __call__(self, inputs: NDArray[Any], views: int = 1) -> NDArray[Any]:
        """(n, *shape) in the source's units -> (n * views, *feature_shape) in the shard's dtype.

        The first view of a sample is the sample itself, the others are random versions of it.

        Raises:
            BadDataError: a value does not fit the dtype.
        """
        import torch

        x = torch.from_numpy(inputs).to(self._device, torch.float32)
        x = self._augment(x, views)
        maps = self._layer((x - self._mean) / self._sd)
        self.liveness.add(maps)
        maps = clip_and_add_noise(maps, self._settings, fresh_noise)
        maps = maps.to(self._dtype).contiguous()
        if not torch.isfinite(maps).all():
            raise does_not_fit(self._settings)
        return np.asarray(maps.cpu().numpy())


def clip_and_add_noise(
    maps: torch.Tensor, settings: Encoding, noise: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Feature maps (n, ...), clipped to `settings.clip` (L2 norm), plus `settings.noise` noise.

    Args:
        noise: maps -> standard normal numbers of the same shape.
    """
    if settings.clip is not None:
        norms = maps.flatten(1).norm(dim=1).clamp(min=settings.clip)
        maps = maps * (settings.clip / norms).reshape(-1, *(1,) * (maps.dim() - 1))
    if settings.noise:
        import torch

        maps = torch.add(maps, noise(maps), alpha=settings.noise)
    return maps


def _write_shards(
    site: SiteFolder,
    private: PrivateFile,
    allowed: NDArray[np.bool_],
    content: Content,
    encoder: AnyEncoder,
    key: SigningKey,
    shard_bytes: int,
    advance: Advance,
) -> Iterator[Manifest]:
    """Write the shards of the allowed rows, split by split.

    Args:
        allowed: (N,) which rows of `private.h5` may be encoded.
        content: of all shards of the site.
        shard_bytes: size of a shard's feature maps, at most.
    """
    labels = private.labels
    splits = np.array(private.text("split"))
    pseudonyms = np.array(private.text("pseudonyms"), dtype=f"S{ID_BYTES}")
    groups = np.array(private.text("group_pseudonyms"), dtype=f"S{GROUP_BYTES}")
    for split in SPLITS:
        split_content = content.for_split(split)
        rows = np.flatnonzero((splits == split) & allowed)
        size = _samples_per_shard(split_content, shard_bytes)
        previous = None
        for sequence, shard_rows in enumerate(_chunks(rows, size)):
            manifest = write_shard(
                site.outbox,
                split_content,
                ShardId(site=site.name, split=split, sequence=sequence),
                previous,
                _encoded(private, shard_rows, split_content.views, encoder, advance),
                Rows(labels[shard_rows], pseudonyms[shard_rows], groups[shard_rows]),
                key,
            )
            previous = manifest.digest
            yield manifest


def _chunks(rows: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    """The rows in chunks of at most `size`."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _samples_per_shard(content: Content, shard_bytes: int) -> int:
    return min(MAX_SAMPLES, max(1, shard_bytes // content.sample_bytes))


def _encoded(
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
