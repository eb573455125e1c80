"""client-encode against a bare loop, its memory, and what travels in the paper's three cases."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import torch

from sltool.models.privacy_layer_file import load_privacy_layer
from sltool.progress import Silent
from sltool.shard.filters import LEVEL
from sltool.site.encode import BATCH_ROWS, encode
from sltool.study.layout import StudyFolder
from sltool.study.schema import Study
from tests.bench import Row, in_turn, seconds
from tests.bench.made_up import make_study

SAMPLES = 4000
SHAPE = (1, 64, 64)
PEAK = """
import sys
from pathlib import Path
from tests.bench.bench_encode import encode_all
from sltool.study.layout import StudyFolder
from sltool.study.study_file import load_study
folder = StudyFolder(Path(sys.argv[1]))
encode_all(folder, load_study(folder))
# Not ru_maxrss: that counts the parent's memory from before the exec.
status = Path("/proc/self/status").read_text()
print(status.split("VmHWM:")[1].split()[0])
"""

# Name, training samples (80 %), numbers in a feature map, epochs: the paper's Tables 2 to 4.
CASES = (
    ("COVID-CT", 2481 * 8 // 10, 32 * 32, 100),
    ("MURA", 36_808 * 8 // 10, 112 * 112, 50),
    ("cholesterol", 326_032 * 8 // 10, 16, 200),
)


def rows() -> Iterator[Row]:
    for channels in (1, 16):
        yield against_bare(channels)
    yield noise()
    yield memory()
    for case in CASES:
        yield shipped(*case)


def make_site(root: Path, channels: int, samples: int) -> tuple[StudyFolder, Study]:
    """A site with random uint8 images, all for training."""
    model = {"name": "covid-cnn", "filters": [channels, 8, 8]}
    folder, study = make_study(root, model, SHAPE, 64, ["A"])
    rng = np.random.default_rng(0)
    with h5py.File(folder.site("A").private, "w") as file:
        file.attrs.update(study=study.id, state="made up", seed=0)
        inputs = file.create_dataset("inputs", (samples, *SHAPE), np.uint8)
        for start in range(0, samples, 1000):
            inputs[start : start + 1000] = rng.integers(0, 256, (1000, *SHAPE), np.uint8)
        file["labels"] = rng.integers(0, 2, samples)
        texts = {
            "split": ["train"] * samples,
            "pseudonyms": [f"{n:032x}" for n in range(samples)],
            "group_pseudonyms": [f"{n:032x}" for n in range(samples)],
        }
        for name, values in texts.items():
            file.create_dataset(name, data=values, dtype=h5py.string_dtype())
    return folder, study


def encode_all(folder: StudyFolder, study: Study) -> None:
    encode(folder, study, "A", Silent(), torch.device("cpu"), 256 * 2**20, force=True)


def against_bare(channels: int) -> Row:
    with tempfile.TemporaryDirectory() as root:
        folder, study = make_site(Path(root), channels, SAMPLES)
        bare, ours, ratio = in_turn(
            lambda: seconds(lambda: bare_encode(folder, study)),
            lambda: seconds(lambda: encode_all(folder, study)),
        )
    return Row(
        f"client-encode against bare read + forward + write, {channels} channels",
        f"{ratio:.2f} of its speed ({SAMPLES / ours:,.0f} samples/s, bare {SAMPLES / bare:,.0f})",
        ">= 0.85",
        ratio >= 0.85,
    )


def noise() -> Row:
    with tempfile.TemporaryDirectory() as root:
        folder, study = make_site(Path(root), 16, SAMPLES)
        noisy = study.encoding.model_copy(update={"noise": 1.0})
        noisy_study = study.model_copy(update={"encoding": noisy})
        without, drawn, ratio = in_turn(
            lambda: seconds(lambda: encode_all(folder, study)),
            lambda: seconds(lambda: encode_all(folder, noisy_study)),
        )
    return Row(
        "client-encode with noise against without, 16 channels",
        f"{ratio:.2f} of its speed ({SAMPLES / drawn:,.0f} samples/s, without "
        f"{SAMPLES / without:,.0f})",
        ">= 0.85",
        ratio >= 0.85,
    )


def bare_encode(folder: StudyFolder, study: Study) -> None:
    """The same arrays in the same HDF5 layout and filters; no check, manifest or signature."""
    layer = load_privacy_layer(folder, study)
    target_path = folder.root / "bare.h5"
    with (
        h5py.File(folder.site("A").private) as source,
        h5py.File(target_path, "w") as target,
        torch.inference_mode(),
    ):
        inputs, features = source["inputs"], None
        for start in range(0, len(inputs), BATCH_ROWS):
            maps = (
                layer(torch.from_numpy(inputs[start : start + BATCH_ROWS]).float()).half().numpy()
            )
            if features is None:
                features = target.create_dataset(
                    "features",
                    (len(inputs), *maps.shape[1:]),
                    np.float16,
                    chunks=(8, *maps.shape[1:]),
                    compression="gzip",
                    compression_opts=LEVEL,
                    shuffle=True,
                    fletcher32=True,
                )
            features[start : start + len(maps)] = maps
    with target_path.open("rb") as written:
        os.fsync(written.fileno())


def memory() -> Row:
    peaks = []
    for samples in (2000, 20_000):
        with tempfile.TemporaryDirectory() as root:
            make_site(Path(root), 1, samples)
            done = subprocess.run(
                [sys.executable, "-c", PEAK, root],
                env={**os.environ, "PYTHONPATH": str(Path.cwd())},
                check=True,
                capture_output=True,
                text=True,
            )
        peaks.append(int(done.stdout) / 1024)
    grown = peaks[1] / peaks[0] - 1
    return Row(
        "peak memory of client-encode, 2,000 and 20,000 samples",
        f"{peaks[0]:.0f} and {peaks[1]:.0f} MiB ({grown:+.1%})",
        "flat (10 %)",
        grown <= 0.10,
    )


def shipped(name: str, samples: int, numbers: int, epochs: int) -> Row:
    """Computed: float16 once, against float32 activations and gradients in every epoch."""
    ours = samples * numbers * 2
    theirs = samples * numbers * 4 * 2 * epochs
    return Row(
        f"bytes shipped for training, {name} ({samples:,} samples, {epochs} epochs)",
        f"{ours / 2**20:,.1f} MiB once before compression, conventional split learning "
        f"{theirs / 2**20:,.0f} MiB: 1/{theirs // ours}",
    )
