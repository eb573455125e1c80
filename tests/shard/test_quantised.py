"""Format 2: quantised feature maps, packed; and format 1, which stays as it was."""

from __future__ import annotations

import json
import random
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from sltool.errors import ShardRefusedError
from sltool.models.quantise import nearest_level, quantise
from sltool.shard.manifest import unpack
from sltool.shard.packing import pack_levels, unpack_values
from sltool.shard.reader import ShardReader
from sltool.study.schema import Encoding, Levels
from tests.conftest import Sltool
from tests.shard.test_accounted import InMemory, Shard, flipped, make, unnoticed
from tests.shard.test_accounted import with_last_chunk as replaced_last_chunk

SHAPE = (5, 3, 1)


def levels_of(bits: int) -> Levels:
    return Levels.model_validate({"bits": bits, "low": -1.0, "high": 2.0})


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Shard:
    """20 rows of 15 values of 2 bits: four bytes, of which the last has two unused bits."""
    return make(tmp_path_factory.mktemp("packed"), 20, SHAPE, levels_of(2))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_values_survive_packing_and_are_the_nearest_levels(bits: int) -> None:
    levels = levels_of(bits)
    maps = torch.randn(9, *SHAPE, generator=torch.Generator().manual_seed(bits)) * 2
    rows = pack_levels(nearest_level(maps, levels).numpy(), bits)
    assert rows.dtype == np.uint8
    assert rows.shape == (9, -(-15 * bits // 8))
    values = unpack_values(rows, levels, SHAPE)
    np.testing.assert_allclose(values, quantise(maps, levels).numpy(), atol=1e-6)
    error = np.abs(values - maps.numpy().clip(-1, 2))
    assert error.max() <= levels.step / 2 + 1e-6


def test_one_bit_is_the_sign() -> None:
    levels = Encoding(bits=1).levels
    assert levels is not None
    maps = torch.tensor([[-3.0, -0.01, 0.01, 0.4]])
    assert quantise(maps, levels).tolist() == [[-1.0, -1.0, 1.0, 1.0]]


def test_the_gradient_passes_straight_through() -> None:
    maps = torch.tensor([[0.2, -0.7]], requires_grad=True)
    quantise(maps, levels_of(1)).sum().backward()
    assert maps.grad is not None
    assert maps.grad.tolist() == [[1.0, 1.0]]


def test_a_packed_shard_is_as_the_page_says(packed: Shard, tmp_path: Path) -> None:
    """Read with h5py and numpy's own unpacking."""
    path = tmp_path / "shard.h5"
    path.write_bytes(packed.data)
    magic, manifest = packed.data[:4096].split(b"\n")[:2]
    assert magic == b"sltool-shard 2"
    content = json.loads(manifest)["content"]
    assert json.loads(manifest)["format"] == 2
    assert content["dtype"] == "uint8"
    assert content["feature_shape"] == [5, 3, 1]
    assert content["scale"] == {"bits": 2, "low": -1.0, "high": 2.0}
    with h5py.File(path) as file:
        rows = file["features"][:]
        assert file["features"].chunks == (20, 4)
    assert rows.shape == (20, 4)
    bits = np.unpackbits(rows, axis=1)
    assert not bits[:, 30:].any()
    levels = 2 * bits[:, :30:2] + bits[:, 1:30:2]
    reader = ShardReader(InMemory(packed.data), packed.manifest)
    scale = packed.manifest.content.scale
    assert scale is not None
    found = unpack_values(np.concatenate(list(reader.features(64))), scale, SHAPE)
    np.testing.assert_allclose(found.reshape(20, 15), -1 + levels * 1.0)


def test_no_byte_of_a_packed_shard_can_be_changed_unnoticed(packed: Shard) -> None:
    """A random eighth of the bytes, and all of the features' chunk, which is the last."""
    chosen = random.Random(0)
    places = range(4096, len(packed.data))
    some = {*chosen.sample(places, len(places) // 8), *places[-120:]}
    changes = (
        (place, flip, flipped(packed.data, place, flip))
        for place in sorted(some)
        for flip in (0x01, 0x80)
    )
    assert unnoticed(packed, changes) == []


def test_padding_bits_are_refused(packed: Shard) -> None:
    reader = ShardReader(InMemory(packed.data), packed.manifest)
    rows = np.concatenate(list(reader.features(64)))
    chunk = next(packed.chunks())
    same = replaced_last_chunk(packed.data, chunk, rows.reshape(-1), first_row=0)
    assert packed.read(same) == packed.content, "the positive control"
    for bit in (0x01, 0x02):
        changed = rows.copy()
        changed[7, -1] |= bit
        data = replaced_last_chunk(packed.data, chunk, changed.reshape(-1), first_row=0)
        with pytest.raises(ShardRefusedError, match="unused bits that are not zero after a"):
            list(ShardReader(InMemory(data), packed.manifest).features(64))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"sltool-shard 2", b"sltool-shard 1"),
        (b'"format":2', b'"format":1'),
        (b'"dtype":"uint8"', b'"dtype":"int16"'),
        (b'"bits":2', b'"bits":3'),
        (b'"low":-1.0', b'"low":+1.0'),
        (b'"low":-1.0', b'"low": 3.0'),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(
    packed: Shard, old: bytes, new: bytes
) -> None:
    block = packed.data[:4096]
    assert unpack(block)[0] == packed.manifest
    assert block.count(old) == 1
    with pytest.raises(ShardRefusedError):
        unpack(block.replace(old, new))


def test_a_study_without_quantisation_has_the_digest_that_it_had(trained: Sltool) -> None:
    """No new key is part of the encoding, or of the manifest, so that accepted shards still fit."""
    meaning = json.loads((trained.folder / "server" / "encoding.json").read_text())
    assert set(meaning["encoding"]) == {"dtype", "clip", "noise", "views", "augment"}
    assert "code" not in meaning["model"]
    block = (trained.folder / "outbox" / "A" / "A-train-00000.h5").read_bytes()[:4096]
    assert block.startswith(b"sltool-shard 1\n")
    manifest = json.loads(block.split(b"\n")[1])
    assert manifest["format"] == 1
    assert manifest["content"]["scale"] is None
    text = (trained.folder / "study.yaml").read_text()
    before = "".join(
        line for line in text.splitlines(True) if not line.startswith(("  bits:", "  range:"))
    )
    assert before != text
    (trained.folder / "study.yaml").write_text(before)
    trained("evaluate").ok()


@pytest.mark.slow
def test_the_servers_values_are_those_of_the_sites_levels(sltool: Sltool) -> None:
    """Each depth, the whole way; an eighth of float16 or less."""
    import sltool as front

    def stages(*settings: str) -> tuple[np.ndarray, int, Path]:
        folder = sltool.folder / "".join(filter(str.isalnum, settings[-1]))
        folder.mkdir()
        options = [word for setting in settings for word in ("--set", setting)]
        inside = ("--study", folder)
        sltool("prepare", "cholesterol", "--seed", 0, *options, *inside).ok()
        sltool("partition", *inside).ok()
        size = sltool("client-encode", "--site", "A", "--json", *inside).ok().json["bytes"]
        sltool("ship", "--site", "A", *inside).ok()
        study = front.Study.open(folder)
        study.take_in()
        return study.feature_maps("train").maps, size, folder

    fixed = ("model.activation=tanh", "training.epochs=2")
    plain, _, _ = stages(*fixed, "encoding.dtype=float32")
    for bits in (1, 2, 4, 8):
        found, _, folder = stages(*fixed, f"encoding.bits={bits}")
        step = 2 / (2**bits - 1)
        np.testing.assert_allclose(
            found, (np.floor((plain + 1) / step + 0.5) * step - 1), atol=1e-5
        )
    trained = sltool("server-train", "--study", folder, "--json").ok().json
    assert trained["epochs"] == 2
    sltool("evaluate", "--study", folder).ok()


def test_a_site_with_another_depth_is_refused(trained: Sltool) -> None:
    path = trained.folder / "study.yaml"
    path.write_text(path.read_text().replace("bits: null", "bits: 4"))
    ran = trained("server-train", "--run", "other")
    assert ran.code == 3
    assert "encoding.bits is 4, and was absent" in ran.err


@pytest.mark.parametrize("setting", ["encoding.bits=3", "encoding.range=[1, -1]"])
def test_settings_that_are_refused(sltool: Sltool, setting: str) -> None:
    ran = sltool("prepare", "cholesterol", "--set", "encoding.bits=2", "--set", setting)
    assert ran.code == 2
    assert setting.partition("=")[0] in ran.err
