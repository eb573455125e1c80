"""How fast shards are written, and verified and stored, against plain h5py.

    python -m tests.bench.bench_shard [--samples N] [--rounds N]

Writing: `write_shard` (compressing, hashing, signing, fsync) against h5py writing the same arrays
with the same chunks and filters, and an fsync. Taking in: what the queue does for a shard, verify,
check and store, against the SHA-256 of the file and a plain sequential h5py read of all four
datasets. The arms take turns; each figure is the median of the rounds' ratios, baseline / ours.
Made-up feature maps: a random 3x3 convolution with ReLU and max-pool over smooth images, float16.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from sltool.server.intake.quality_check import ShardStatistics
from sltool.server.store import Segment, Shape, Store
from sltool.shard.keys import SigningKey
from sltool.shard.manifest import USER_BLOCK, Content, Noise, ShardId
from sltool.shard.payload import Rows, members
from sltool.shard.reader import open_shard
from sltool.shard.writer import write_shard
from sltool.study.schema import Site
from tests.bench import ROUNDS, Row, in_turn, seconds

SHAPE = (1, 32, 32)
BLOCK = 4096


def feature_maps(samples: int) -> NDArray[Any]:
    torch.manual_seed(0)
    layer = torch.nn.Sequential(
        torch.nn.Conv2d(1, SHAPE[0], 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2)
    )
    coarse = torch.randn(samples, 1, 10, 10)
    images = torch.nn.functional.interpolate(coarse, size=(64, 64), mode="bicubic")
    with torch.no_grad():
        maps = layer(images + 0.05 * torch.randn_like(images))
    return np.asarray(maps.to(torch.float16).numpy())


def make_rows(samples: int) -> Rows:
    hexes = np.array([os.urandom(16).hex() for _ in range(2 * samples)], "S32")
    labels = np.arange(samples, dtype=np.int32) % 2
    return Rows(labels, hexes[:samples], hexes[samples:].astype("S65"))


class Study:
    """The part of a study that the reader needs."""

    def __init__(self, key: SigningKey) -> None:
        self.sites = {"A": Site(key=key.public)}


def plain_write(path: Path, content: Content, features: NDArray[Any], rows: Rows) -> None:
    data = {"features": features, **vars(rows)}
    with h5py.File(path, "w", userblock_size=USER_BLOCK, libver=("v108", "v108")) as file:
        for name, member in members(content, len(rows)).items():
            file.create_dataset(
                name, data=data[name], dtype=member.dtype, chunks=member.chunks,
                compression="gzip", compression_opts=1, shuffle=True, fletcher32=True,
            )  # fmt: skip
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def plain_read(path: Path) -> None:
    with path.open("rb") as raw:
        hashlib.file_digest(raw, "sha256")
    with h5py.File(path) as file:
        for name in ("labels", "pseudonyms", "groups"):
            file[name][:]
        for start in range(0, len(file["features"]), BLOCK):
            file["features"][start : start + BLOCK]


def take_in(path: Path, study: Any, content: Content, folder: Path) -> None:
    store = Store(folder, content.encoding, Shape(SHAPE, content.dtype, regression=False))
    with open_shard(path, study, content) as reader:
        rows, statistics = reader.rows(), ShardStatistics()
        segment = Segment(
            digest=reader.manifest.digest, previous=None, site="A", split="train", sequence=0,
            start=0, samples=len(rows), views=1,
        )  # fmt: skip
        features = statistics.watch(reader.features(BLOCK))
        segment = store.stage(segment, features, rows.labels, rows.pseudonyms, rows.groups)
    store.commit(segment)


def rows(samples: int = 40_000, rounds: int = ROUNDS) -> Iterator[Row]:
    """The rows of the table."""
    features, columns = feature_maps(samples), make_rows(samples)
    blocks = [features[start : start + 256] for start in range(0, samples, 256)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        key = SigningKey.load_or_create(folder / "key")
        content = Content(
            study="0" * 32, encoding="0" * 64, feature_shape=SHAPE, dtype="float16", views=1,
            label="binary", classes=2, noise=Noise(clip=None, sd=0.0),
        )  # fmt: skip
        place = ShardId(site="A", split="train", sequence=0)
        path, study = folder / place.name, Study(key)
        *_, writing = in_turn(
            lambda: seconds(lambda: plain_write(folder / "plain.h5", content, features, columns)),
            lambda: seconds(
                lambda: write_shard(folder, content, place, None, blocks, columns, key)
            ),
            rounds,
        )
        *_, taking = in_turn(
            lambda: seconds(lambda: plain_read(path)),
            lambda: seconds(lambda: take_in(path, study, content, folder / str(time.time_ns()))),
            rounds,
        )
        what = f"{samples} maps of 1x32x32 float16, {path.stat().st_size / 2**20:.0f} MiB"
    written = f"write a shard / plain h5py write, as rates ({what})"
    yield Row(written, f"{writing:.2f}", ">= 0.8", writing >= 0.8)
    taken = f"verify + store / SHA-256 + plain h5py read, as rates ({what})"
    yield Row(taken, f"{taking:.2f}", ">= 0.5", taking >= 0.5)


def main() -> None:
    from tests.bench.__main__ import line

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    print("| what | measured | bar | |\n| --- | --- | --- | --- |")
    for row in rows(options.samples, options.rounds):
        print(line(row))


if __name__ == "__main__":
    main()
