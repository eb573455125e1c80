"""CIFAR-10: three layouts of the same pictures, and nothing in a pickle is ever run."""

from __future__ import annotations

import csv
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sltool.datasets.cifar10 import CLASSES, read_binary
from sltool.datasets.cifar_pickle import read_pickled
from sltool.errors import BadDataError
from tests.conftest import Sltool

RECORD = 3073


def first_records(path: Path, count: int) -> bytes:
    with path.open("rb") as file:
        return file.read(RECORD * count)


def batch(pixels: np.ndarray, labels: list[int]) -> dict[bytes, object]:
    return {
        b"batch_label": b"training batch 1 of 5",
        b"labels": labels,
        b"data": pixels.reshape(-1, 3072),
        b"filenames": [b"x.png"] * len(labels),
    }


@pytest.fixture
def some() -> tuple[np.ndarray, list[int]]:
    """60 pictures (60, 3, 32, 32), six of each class."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (60, 3, 32, 32), dtype=np.uint8), [n % 10 for n in range(60)]


def prepared(sltool: Sltool) -> tuple[np.ndarray, list[int], list[str]]:
    import h5py

    with h5py.File(sltool.folder / "prepared.h5") as file:
        return file["inputs"][:], file["labels"][:].tolist(), list(file["official"].asstr()[:])


@pytest.mark.slow
def test_the_real_batches_run_to_figures(
    sltool: Sltool, data: Callable[[str], Path], tmp_path: Path
) -> None:
    real = data("cifar-10-batches-bin")
    for name, count in (("data_batch_1.bin", 600), ("test_batch.bin", 200)):
        (tmp_path / name).write_bytes(first_records(real / name, count))
    settings = ("--set", "training.epochs=2")
    done = sltool("prepare", "cifar10", "--source", tmp_path, *settings, "--json").ok().json
    assert done["samples"] == 800
    assert list(done["classes"]) == list(CLASSES)
    assert any("1 of CIFAR-10's 5 training batches" in note for note in done["notes"])
    sites = sltool("partition", "--json").ok().json["sites"]
    assert sum(counts["test"] for counts in sites.values()) == 200
    for site in "ABC":
        with (sltool.folder / "sites" / site / "pseudonyms.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert all((row["split"] == "test") == ("test_batch" in row["record"]) for row in rows)
    sltool("client-encode").ok()
    sltool("ship").ok()
    sltool("server-train").ok()
    metrics = sltool("evaluate", "--json").ok().json["metrics"]
    assert {"accuracy", "f1", "kappa", "auroc", "bce"} <= set(metrics)
    assert metrics["kappa"] == pytest.approx((metrics["accuracy"] - 0.1) / 0.9, abs=0.05)
    with (sltool.folder / "server/runs/default/predictions.csv").open() as file:
        header = next(csv.reader(file))
    assert header[-10:] == [f"y_pred_{name}" for name in CLASSES]


def test_a_whole_real_batch_reads_as_pictures(data: Callable[[str], Path]) -> None:
    images, labels = read_binary(data("cifar-10-batches-bin") / "test_batch.bin")
    assert images.shape == (10_000, 3, 32, 32)
    assert set(labels.tolist()) == set(range(10))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_three_layouts_hold_the_same(
    sltool: Sltool, tmp_path: Path, some: tuple[np.ndarray, list[int]], protocol: int
) -> None:
    pixels, labels = some
    flat = np.column_stack([np.array(labels, dtype=np.uint8), pixels.reshape(60, -1)])
    (tmp_path / "data_batch_1.bin").write_bytes(flat.tobytes())
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(batch(pixels, labels), protocol))
    for read, name in ((read_binary, "data_batch_1.bin"), (read_pickled, "data_batch_1")):
        found, numbers = read(tmp_path / name)
        np.testing.assert_array_equal(found, pixels)
        assert numbers.tolist() == labels


def test_the_python_layout_is_prepared(
    sltool: Sltool, tmp_path: Path, some: tuple[np.ndarray, list[int]]
) -> None:
    pixels, labels = some
    for batch_number in range(1, 4):
        content = batch(pixels[::batch_number], labels[::batch_number])
        (tmp_path / f"data_batch_{batch_number}").write_bytes(pickle.dumps(content, 2))
    (tmp_path / "test_batch").write_bytes(pickle.dumps(batch(pixels[:10], labels[:10]), 2))
    sltool("prepare", "cifar10", "--source", tmp_path).ok()
    inputs, numbers, official = prepared(sltool)
    np.testing.assert_array_equal(
        inputs, np.concatenate([pixels, pixels[::2], pixels[::3], pixels[:10]])
    )
    assert numbers == [*labels, *labels[::2], *labels[::3], *labels[:10]]
    assert official == ["train"] * 110 + ["test"] * 10


def test_class_folders_are_prepared(
    sltool: Sltool, tmp_path: Path, some: tuple[np.ndarray, list[int]]
) -> None:
    pixels, labels = some
    for index, (picture, label) in enumerate(zip(pixels, labels, strict=True)):
        folder = tmp_path / ("test" if index >= 50 else "train") / CLASSES[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.transpose(1, 2, 0)).save(folder / f"{index:04}.png")
    done = sltool("prepare", "cifar10", "--source", tmp_path, "--json").ok().json
    assert done["classes"] == dict.fromkeys(CLASSES, 6)
    inputs, numbers, official = prepared(sltool)
    assert official.count("test") == 10
    first = labels.index(0)
    np.testing.assert_array_equal(inputs[0], pixels[first])
    assert numbers[0] == 0


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_that_would_run_something_is_refused_and_runs_nothing(
    sltool: Sltool, tmp_path: Path, protocol: int
) -> None:
    source, trace = tmp_path / "source", tmp_path / "trace"
    source.mkdir()
    pickled = pickle.dumps({b"data": Evil(trace), b"labels": [1]}, protocol)
    (source / "data_batch_1").write_bytes(pickled)
    ran = sltool("prepare", "cifar10", "--source", source)
    assert ran.code == 3
    assert "mkdir" in ran.err
    assert not trace.exists()
    pickle.loads(pickled)  # noqa: S301 - the control: an ordinary unpickler does run it
    assert trace.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a pickle",
        pickle.dumps([1, 2]),
        pickle.dumps({b"data": b"x", b"labels": [1]}),
        pickle.dumps({b"data": np.zeros((1, 3072)), b"labels": [1]}),
        pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}),
        pickle.dumps({b"data": np.array([[None] * 3072]), b"labels": [1]}),
        pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": ["a"]}),
        pickle.dumps({1: np.zeros((1, 3072), np.uint8)}),
        pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [1]})[:-40],
    ],
)
def test_a_pickle_that_is_not_a_batch_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data_batch_1"
    path.write_bytes(content)
    with pytest.raises(BadDataError):
        read_pickled(path)


def test_a_binary_file_cut_short_is_refused(sltool: Sltool, tmp_path: Path) -> None:
    (tmp_path / "data_batch_1.bin").write_bytes(bytes(RECORD * 3 - 1))
    ran = sltool("prepare", "cifar10", "--source", tmp_path)
    assert ran.code == 3
    assert "3073" in ran.err


def test_a_label_beyond_the_classes_is_refused(
    sltool: Sltool, tmp_path: Path, some: tuple[np.ndarray, list[int]]
) -> None:
    pixels, labels = some
    flat = np.column_stack([np.array(labels, dtype=np.uint8), pixels.reshape(60, -1)])
    flat[7, 0] = 77
    (tmp_path / "data_batch_1.bin").write_bytes(flat.tobytes())
    done = sltool("prepare", "cifar10", "--source", tmp_path, "--json").ok().json
    assert done["refused"] == [{"record": "data_batch_1.bin #7", "reason": "there is no class 77"}]
    np.testing.assert_array_equal(prepared(sltool)[0], np.delete(pixels, 7, axis=0))
