"""How fast `partition` writes the sites' inputs, against a plain copy of the same bytes.

    python -m tests.bench.bench_partition [--images N] [--rounds N]

`partition` reads `prepared.h5`, shuffles the rows to three sites, and writes labels, pseudonyms and
the table of pseudonyms beside them; the plain copy is `shutil.copyfile` of `prepared.h5`. Both end
with an fsync of what they wrote. Made-up grey images of 224x224, uint8.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sltool.files import fsync
from sltool.progress import Silent
from sltool.site.partition_stage import make_sites
from sltool.site.prepare import CHUNK_BYTES
from sltool.site.private_file import create_private, write_text_column
from sltool.study.layout import StudyFolder
from sltool.study.schema import Study
from tests.bench import ROUNDS, Row, in_turn, seconds
from tests.bench.made_up import make_study

SHAPE = (1, 224, 224)
BLOCK = 1024


def make_prepared(folder: StudyFolder, study: Study, images: int) -> None:
    """`prepared.h5` as `prepare` lays it out, a patient to each two images."""
    block = np.random.default_rng(0).integers(0, 256, (BLOCK, *SHAPE), np.uint8)
    per_chunk = max(1, CHUNK_BYTES // block[0].nbytes)
    with create_private(folder.prepared, study.id, "bench") as file:
        inputs = file.create_dataset(
            "inputs", shape=(images, *SHAPE), dtype=np.uint8, chunks=(per_chunk, *SHAPE)
        )
        for start in range(0, images, BLOCK):
            inputs[start : start + BLOCK] = block[: images - start]
        file["labels"] = np.arange(images) // 2 % 2
        write_text_column(file, "records", [f"image{row:05d}.png" for row in range(images)])
        write_text_column(file, "groups", [f"patient{row // 2:05d}" for row in range(images)])
        for name in ("examinations", "official"):
            write_text_column(file, name, [""] * images)


def copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    fsync(target)


def rows(images: int = 40_000, rounds: int = ROUNDS) -> Iterator[Row]:
    """The rows of the table."""
    with tempfile.TemporaryDirectory() as name:
        folder, study = make_study(Path(name), {"name": "vgg19"}, SHAPE, 16, ["A", "B", "C"])
        make_prepared(folder, study, images)
        target = folder.prepared.with_name("copy.h5")

        def plain() -> float:
            target.unlink(missing_ok=True)
            return seconds(lambda: copy(folder.prepared, target))

        def ours() -> float:
            for site in folder.site_names():
                folder.site(site).private.unlink(missing_ok=True)
                # As in the first partition: none of these pseudonyms may have been shipped.
                folder.site(site).pseudonyms.unlink(missing_ok=True)
            os.sync()
            return seconds(lambda: make_sites(folder, "7:2:1", None, 0, True, Silent()))

        size = folder.prepared.stat().st_size
        copied, took, ratio = in_turn(plain, ours, rounds)
    yield Row(
        f"partition {images} images of 224x224 / plain copy, as rates ({size / 2**20:.0f} MiB)",
        f"{ratio:.2f}: {took:.1f} s against {copied:.1f} s",
        ">= 0.5",
        ratio >= 0.5,
    )


def main() -> None:
    from tests.bench.__main__ import line

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    print("| what | measured | bar | |\n| --- | --- | --- | --- |")
    for row in rows(options.images, options.rounds):
        print(line(row))


if __name__ == "__main__":
    main()
