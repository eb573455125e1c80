"""Every byte of a shard means something or has one legal value: none can be changed unnoticed.

Whoever signs can sign anything, so that each change here is taken to be signed: what the reader
does behind the signature is all that is asked.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from sltool.errors import ShardRefusedError, SltoolError
from sltool.shard.filters import fletcher32, pack_chunk, unpack_chunk
from sltool.shard.hdf5_headers import lookup3, superblock
from sltool.shard.hdf5_parser import find_chunks
from sltool.shard.keys import SigningKey, is_signed_by
from sltool.shard.manifest import USER_BLOCK, Content, Manifest, Noise, ShardId, unpack
from sltool.shard.packing import pack_levels
from sltool.shard.payload import Rows, members
from sltool.shard.reader import ShardReader
from sltool.shard.untrusted_file import UntrustedFile
from sltool.shard.writer import write_shard
from sltool.study.schema import Levels

SUPERBLOCK_BYTES = 48
# A low bit and a high one.
FLIPS = (0x01, 0x80)


class InMemory(UntrustedFile):
    """A file whose content is these bytes."""

    def __init__(self, data: bytes) -> None:
        self.path, self.data = Path("shard.h5"), data

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, offset: int, size: int) -> bytes:
        return self.data[offset : offset + size]

    def check_unchanged(self) -> None:
        """Bytes in memory do not change."""


@dataclass(frozen=True)
class Shard:
    """A valid shard, and the values read from it."""

    data: bytes
    manifest: Manifest
    key: SigningKey

    @property
    def content(self) -> bytes | None:
        return self.read(self.data)

    def read(self, data: bytes) -> bytes | None:
        """Everything read from `data`, or None if it is refused."""
        try:
            reader = ShardReader(InMemory(data), self.manifest)
            columns = [vars(reader.rows())[name] for name in ("labels", "pseudonyms", "groups")]
            return b"".join(part.tobytes() for part in [*columns, *reader.features(64)])
        except ShardRefusedError:
            return None

    def chunks(self) -> Iterator[slice]:
        """The positions of the chunks in the file."""
        layout = members(self.manifest.content, self.manifest.samples)
        for found in find_chunks(InMemory(self.data), layout).values():
            for start, size in zip(found.offsets.tolist(), found.sizes.tolist(), strict=True):
                yield slice(start, start + size)


def make(
    folder: Path, samples: int, feature_shape: tuple[int, ...], scale: Levels | None = None
) -> Shard:
    rng = np.random.default_rng(0)
    content = Content(
        study="0" * 32, encoding="0" * 64, feature_shape=feature_shape, views=1,
        dtype="uint8" if scale else "float16", scale=scale,
        label="regression", classes=0, noise=Noise(clip=None, sd=0.0),
    )  # fmt: skip
    hexes = [rng.bytes(16).hex().encode() for _ in range(2 * samples)]
    rows = Rows(
        rng.normal(size=samples).astype(np.float32),
        np.array(hexes[:samples], "S32"),
        np.array(hexes[samples:], "S65"),
    )
    features: NDArray[Any] = rng.normal(size=(samples, *feature_shape)).astype(np.float16)
    if scale:
        levels = rng.integers(0, 2**scale.bits, features.shape, np.uint8)
        features = pack_levels(levels, scale.bits)
    key = SigningKey.load_or_create(folder / "key")
    place = ShardId(site="A", split="train", sequence=0)
    manifest = write_shard(folder, content, place, None, [features], rows, key)
    return Shard((folder / place.name).read_bytes(), manifest, key)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Shard:
    """Three chunks of feature maps; the last extends past the end."""
    shard = make(tmp_path_factory.mktemp("small"), 20, (1, 2, 2))
    assert shard.content, "the positive control"
    return shard


def flipped(data: bytes, place: int, flip: int) -> bytearray:
    changed = bytearray(data)
    changed[place] ^= flip
    return changed


def unnoticed(shard: Shard, changes: Iterator[tuple[int, int, bytearray]]) -> list[tuple[int, int]]:
    """Which changes (place, flip, file) are accepted although the same is read."""
    content = shard.content
    return [(place, flip) for place, flip, data in changes if shard.read(bytes(data)) == content]


@pytest.mark.slow
def test_no_byte_of_the_payload_can_be_changed_unnoticed(small: Shard) -> None:
    """All bytes, those of the chunks as well."""
    changes = (
        (place, flip, flipped(small.data, place, flip))
        for place in range(USER_BLOCK, len(small.data))
        for flip in FLIPS
    )
    assert unnoticed(small, changes) == []


@pytest.mark.slow
def test_no_bit_can_be_changed_unnoticed_by_repairing_the_checksum(small: Shard) -> None:
    def repaired() -> Iterator[tuple[int, int, bytearray]]:
        for part, checksum in checked_parts(small):
            for place in range(part.start, part.stop - 4):
                for flip in (1 << bit for bit in range(8)):
                    data = flipped(small.data, place, flip)
                    packed = bytes(data[part.start : part.stop - 4])
                    data[part.stop - 4 : part.stop] = struct.pack("<I", checksum(packed))
                    yield place, flip, data

    assert unnoticed(small, repaired()) == []


def checked_parts(shard: Shard) -> Iterator[tuple[slice, Any]]:
    """The ranges that end with a checksum, and the checksum."""
    start = USER_BLOCK + SUPERBLOCK_BYTES
    yield slice(USER_BLOCK, start), lookup3
    headers = 0
    while shard.data[start : start + 4] == b"OHDR":
        end = shard.data.find(b"OHDR", start + 1)
        end = end if end > 0 else shard.data.index(b"TREE", start)
        yield slice(start, end), lookup3
        start, headers = end, headers + 1
    assert headers == 5, "the root group and the four datasets"
    # Noise that zlib does not compress. A compressed chunk has other streams of the same values:
    # the same bytes may be copied from another distance.
    for chunk in list(shard.chunks())[:2]:
        yield chunk, fletcher32


def test_no_random_change_of_a_bigger_shard_is_unnoticed(tmp_path: Path) -> None:
    """Its chunk index has two levels; one to eight bytes, most of them not in a chunk."""
    shard = make(tmp_path, 700, (1, 2, 2))
    assert shard.content, "the positive control"
    chunks = list(shard.chunks())
    outside = set(range(USER_BLOCK, len(shard.data)))
    outside -= {place for chunk in chunks for place in range(chunk.start, chunk.stop)}
    chosen, places = random.Random(0), sorted(outside)

    def changed() -> Iterator[tuple[int, int, bytearray]]:
        for _ in range(5000):
            count = chosen.choice([1, 1, 2, 8])
            place = min(chosen.choice(places), len(shard.data) - count)
            data = bytearray(shard.data)
            data[place : place + count] = chosen.randbytes(count)
            if data != shard.data:
                yield place, count, data

    assert unnoticed(shard, changed()) == []


def test_no_byte_of_the_user_block_can_be_changed_unnoticed(small: Shard) -> None:
    """Signed again where the manifest is hit."""
    block = small.data[:USER_BLOCK]
    magic, manifest, _ = block.split(b"\n", 2)
    signed = range(len(magic) + 1, len(magic) + 1 + len(manifest))
    for place in range(USER_BLOCK):
        for flip in FLIPS:
            changed = bytes(flipped(block, place, flip))
            if place in signed:
                changed = signed_again(changed, small.key)
            try:
                found, signature = unpack(changed)
            except ShardRefusedError:
                continue
            is_other = place in signed and found != small.manifest
            good = is_signed_by(small.key.public, signature, found.to_bytes())
            assert is_other or not good, (place, flip)


def signed_again(block: bytes, key: SigningKey) -> bytes:
    magic, manifest, rest = block.split(b"\n", 2)
    padding = rest.partition(b"\n")[2]
    return b"\n".join([magic, manifest, key.sign(manifest).encode("ascii"), padding])


@pytest.mark.parametrize("hidden", [1.0, -0.0])
def test_values_behind_the_last_row_are_refused(small: Shard, hidden: float) -> None:
    """The last chunk of the features has room for four rows more."""
    chunk = list(small.chunks())[2]
    assert chunk.stop == len(small.data)
    values = unpack_chunk(small.data[chunk], 32, np.dtype(np.float16))
    assert small.read(with_last_chunk(small.data, chunk, values)) == small.content
    values[-1] = hidden
    data = with_last_chunk(small.data, chunk, values)
    with pytest.raises(ShardRefusedError, match="after the last row of 'features'"):
        list(ShardReader(InMemory(data), small.manifest).features(64))


def with_last_chunk(data: bytes, chunk: slice, values: NDArray[Any], first_row: int = 16) -> bytes:
    """The file with other values in its last chunk."""
    packed = pack_chunk(values)
    old, new = (struct.pack("<IIQ", size, 0, first_row) for size in (len(data[chunk]), len(packed)))
    entry = data.rindex(old)
    data = data[:entry] + new + data[entry + len(new) : chunk.start] + packed
    head = superblock(len(data)).fill([SUPERBLOCK_BYTES])
    return data[:USER_BLOCK] + head + data[USER_BLOCK + len(head) :]


def test_bits_behind_the_end_of_a_stream_are_refused() -> None:
    ignored = 0
    for count in range(1, 100):
        chunk = np.arange(count, dtype=np.int32)
        packed = pack_chunk(chunk)[:-4]
        padded = packed[:-5] + bytes([packed[-5] | 0x80]) + packed[-4:]
        if padded == packed or not inflates(padded):
            continue
        ignored += 1
        with pytest.raises(ValueError, match="unused bits that are not zero"):
            unpack_chunk(padded + struct.pack("<I", fletcher32(padded)), count, chunk.dtype)
    assert ignored > 50, "zlib itself takes them"


def inflates(packed: bytes) -> bool:
    try:
        zlib.decompress(packed)
    except zlib.error:
        return False
    return True


def test_no_good_stream_is_taken_for_one_with_bits_behind_its_end() -> None:
    """Especially for runs of zeros, where other distances decompress to the same bytes."""
    rng = np.random.default_rng(0)
    for _ in range(3000):
        values = np.maximum(rng.normal(size=rng.integers(1, 400)) - rng.uniform(-1, 3), 0)
        chunk = values.astype(np.float16)
        assert np.array_equal(unpack_chunk(pack_chunk(chunk), len(chunk), chunk.dtype), chunk)


def test_another_layout_of_the_hdf5_library_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(h5py.get_config(), "track_order", True)
    with pytest.raises(SltoolError, match="no server would accept"):
        make(tmp_path, 20, (1, 2, 2))
    assert not list(tmp_path.glob("*.h5*"))
