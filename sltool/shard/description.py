"""What a shard contains, for people: an untrusted file, read with our own parser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sltool.errors import SltoolError
from sltool.shard.keys import fingerprint, key_id
from sltool.shard.manifest import Content, Manifest
from sltool.shard.payload import ID_BYTES, Rows
from sltool.shard.reader import ShardReader, check_content, check_digest, check_signer, manifest_of
from sltool.shard.untrusted_file import UntrustedFile
from sltool.study.schema import Study

ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Check:
    """One question about a file, and the answer.

    Attributes:
        passed: None where there is nothing to check against.
        error: why it did not pass.
    """

    name: str
    passed: bool | None
    text: str
    error: SltoolError | None = None


@dataclass(frozen=True)
class FeatureMaps:
    """The feature maps of all samples in figures, and those of a few samples.

    Attributes:
        low, high: the least and greatest value.
        zeros: the share of values that are zero, 0 to 1.
        shown: which samples `maps` has, as indices into the rows.
        maps: (n, C, H, W) or (n, D) float32, the first view of each.
    """

    low: float
    high: float
    zeros: float
    shown: NDArray[np.int64]
    maps: NDArray[np.float32]


@dataclass(frozen=True)
class ShardDescription:
    """A shard in parts that can be shown. `rows` and `features` are None if it is malformed."""

    path: Path
    bytes: int
    manifest: Manifest
    checks: list[Check]
    rows: Rows | None
    features: FeatureMaps | None

    @property
    def error(self) -> SltoolError | None:
        """Why a check did not pass; None if all did."""
        return next((check.error for check in self.checks if check.error is not None), None)

    @property
    def patients(self) -> int:
        """The number of different patients."""
        return len({group[:ID_BYTES] for group in self.rows.groups.tolist()}) if self.rows else 0

    @property
    def examinations(self) -> int:
        """The number of different examinations; 0 where the samples name none."""
        groups = self.rows.groups.tolist() if self.rows else []
        return len({group for group in groups if b"/" in group})


def describe_shard(
    path: Path, study: Study | None, expected: Content | None, samples: int
) -> ShardDescription:
    """Read and check a shard as the server does, and go on where a check does not pass.

    Args:
        study: what to check the signature against; None where there is no study.yaml.
        expected: what training shards of the study contain; None where that is not known.
        samples: how many samples' feature maps to return.

    Raises:
        ShardRefusedError: the file does not begin like a shard.
        UnreadableError: it does not exist, or may not be read.
    """
    with UntrustedFile(path) as file:
        manifest, signature = manifest_of(file)
        checks = [
            _signer(file, manifest, signature, study),
            _check(
                "content",
                lambda: check_digest(file, manifest),
                "every byte is as it was signed",
            ),
            _agreement(file, manifest, expected),
        ]
        rows, features, layout = _payload(file, manifest, samples)
        size = file.size
    return ShardDescription(path, size, manifest, [*checks, layout], rows, features)


def _check(name: str, action: Callable[[], object], text: str) -> Check:
    try:
        action()
    except SltoolError as error:
        return Check(name, False, error.what, error)
    return Check(name, True, text)


def _signer(file: UntrustedFile, manifest: Manifest, signature: str, study: Study | None) -> Check:
    site = manifest.place.site
    if study is None:
        text = f"it names key {manifest.key} of site {site}; without study.yaml nobody can say more"
        return Check("signature", None, text)

    def action() -> None:
        message = manifest.to_bytes()
        check_signer(study, site, manifest.key, signature, message, file.path, arriving=False)

    listed = study.sites.get(site)
    keys = [entry.key for entry in (listed, *listed.earlier)] if listed else []
    named = "".join(fingerprint(key) for key in keys if key_id(key) == manifest.key)
    text = f"signed with a key that study.yaml lists for site {site}: {named}"
    return _check("signature", action, text)


def _agreement(file: UntrustedFile, manifest: Manifest, expected: Content | None) -> Check:
    if expected is None:
        text = f"it is of study {manifest.content.study}; there is no study here to compare it with"
        return Check("study", None, text)
    ours = expected.for_split(manifest.place.split)
    return _check(
        "study",
        lambda: check_content(manifest.content, ours, file.path),
        "it is of this study, and encoded as study.yaml says",
    )


def _payload(
    file: UntrustedFile, manifest: Manifest, samples: int
) -> tuple[Rows | None, FeatureMaps | None, Check]:
    try:
        reader = ShardReader(file, manifest)
        rows = reader.rows()
        features = _features(reader, samples)
    except SltoolError as error:
        return None, None, Check("layout", False, error.what, error)
    text = "four lists and nothing else: feature maps, labels, pseudonyms, groups; no byte is left"
    return rows, features, Check("layout", True, text)


def _features(reader: ShardReader, samples: int) -> FeatureMaps:
    content, count = reader.manifest.content, reader.manifest.samples
    shown = np.unique(np.linspace(0, count - 1, min(samples, count)).astype(np.int64))
    wanted = shown * content.views
    found: list[NDArray[Any]] = []
    low, high, zeros, total, start = np.inf, -np.inf, 0, 0, 0
    for block in reader.features(ROWS_AT_ONCE):
        low, high = min(low, float(block.min())), max(high, float(block.max()))
        zeros += block.size - int(np.count_nonzero(block))
        total += block.size
        here = wanted[(wanted >= start) & (wanted < start + len(block))] - start
        found.append(block[here].astype(np.float32))
        start += len(block)
    return FeatureMaps(low, high, zeros / total, shown, np.concatenate(found))
