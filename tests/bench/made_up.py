"""Synthetic studies with real shards, of the size that a benchmark needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save_file

from sltool.models.base import build, feature_shape
from sltool.progress import Silent
from sltool.server.intake.queue import Queue
from sltool.shard.keys import SigningKey
from sltool.shard.manifest import PREDICTION, Content, ShardId
from sltool.shard.payload import Rows
from sltool.shard.writer import write_shard
from sltool.study.layout import StudyFolder
from sltool.study.schema import Study

BLOCK = 1024


def make_study(
    root: Path,
    model: dict[str, Any],
    shape: tuple[int, ...],
    batch_size: int,
    sites: list[str],
    classes: tuple[str, ...] = ("no", "yes"),
) -> tuple[StudyFolder, Study]:
    """A study's folder with keys for all sites; no classes: regression."""
    folder = StudyFolder(root)
    keys = {site: SigningKey.load_or_create(folder.site(site).key) for site in sites}
    labels = {"kind": "binary", "classes": classes} if classes else {"kind": "regression"}
    study = Study.model_validate(
        {
            "id": "0" * 32,
            "dataset": {"name": "covid-ct" if classes else "cholesterol"},
            "samples": {
                "shape": shape,
                "mean": [0.0] * shape[0],
                "sd": [1.0] * shape[0],
                "labels": labels,
            },
            "model": model,
            "training": {"batch_size": batch_size, "epochs": 100_000},
            "sites": {site: {"key": key.public} for site, key in keys.items()},
        }
    )
    folder.study_file.write_text(json.dumps(study.model_dump(mode="json", exclude_none=True)))
    save_file(build(study, 0).privacy_layer.state_dict(), folder.privacy_layer)
    return folder, study


def ship(folder: StudyFolder, study: Study, rows: Mapping[str, int], split: str = "train") -> None:
    """One signed shard of random feature maps a site, into the inbox."""
    shape = feature_shape(study)
    content = Content.from_study(study, study.encoding_digest(folder.privacy_layer), shape)
    # Pseudonyms of other splits differ.
    rng = np.random.default_rng(list(split.encode()))
    block = np.maximum(rng.normal(size=(BLOCK, *shape)), 0).astype(np.float16)
    for site, count in rows.items():
        write_shard(
            folder.inbox,
            content,
            ShardId(site=site, split=split, sequence=0),
            None,
            (block[: min(BLOCK, count - start)] for start in range(0, count, BLOCK)),
            _rows(study, count, rng, split),
            SigningKey.load(folder.site(site).key),
        )


def _rows(study: Study, count: int, rng: np.random.Generator, split: str) -> Rows:
    regression = study.samples.labels.kind == "regression"
    labels: NDArray[Any] = rng.normal(size=count).astype(np.float32)
    if split == PREDICTION:
        labels[:] = 0
    digits = np.frombuffer(rng.bytes(16 * count).hex().encode("ascii"), "S32")
    return Rows(
        labels if regression else (labels > 0).astype(np.int32), digits, digits.astype("S65")
    )


def accepted(folder: StudyFolder, study: Study, rows: Mapping[str, int]) -> Queue:
    """The queue after it has taken such shards in."""
    ship(folder, study, rows)
    queue = Queue(folder, study)
    intake = queue.take(Silent())
    assert len(intake.accepted) == len(rows), intake
    return queue
