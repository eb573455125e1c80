"""Marked images through the hospital's stages: no mark is in anything that leaves or is logged."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from tests.conftest import Sltool

CANARIES = ("CANARYTEXT", "CANARYEXIF", "MRN0815CANARY", "CANARYPATIENT")


def make_marked(folder: Path, number: int, seed: int) -> None:
    """PNGs and JPEGs with marks in text chunks, EXIF and names."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for n in range(number):
        picture = Image.fromarray(rng.integers(0, 255, (24, 24), dtype=np.uint8))
        exif = Image.Exif()
        exif[0x010E] = exif[0x013B] = "CANARYEXIF"
        text = PngImagePlugin.PngInfo()
        text.add_text("PatientName", "CANARYTEXT CANARYPATIENT")
        if n % 2:
            picture.save(folder / f"MRN0815CANARY-{n}.png", pnginfo=text, exif=exif)
        else:
            picture.save(folder / f"MRN0815CANARY-{n}.jpg", exif=exif, comment=b"CANARYTEXT")


def everything_in(path: Path) -> bytes:
    """A file's bytes, and those of every HDF5 dataset and of every deflate stream in it."""
    parts = [path.read_bytes()]
    if path.suffix == ".h5":
        with h5py.File(path) as file:
            parts += [np.asarray(dataset[()]).tobytes() for dataset in file.values()]
    for start in re.finditer(rb"\x78[\x01\x5e\x9c\xda]", parts[0]):
        try:
            parts.append(zlib.decompressobj().decompress(parts[0][start.start() :]))
        except zlib.error:
            continue
    return b"\n".join(parts)


@pytest.mark.parametrize("encrypted", [False, True])
def test_no_mark_leaves_the_hospital(sltool: Sltool, tmp_path: Path, encrypted: bool) -> None:
    source = tmp_path / "ct"
    for seed, name in enumerate(("COVID", "non-COVID")):
        make_marked(source / name, 15, seed)
    said = sltool("prepare", "covid-ct", "--source", source, "--verbose").ok()
    logs = [said.out + said.err]
    marked = b"".join(path.read_bytes() for path in source.rglob("*.*g"))
    names = " ".join(path.name for path in source.rglob("*.*g"))
    assert all(one.encode() in marked or one in names for one in CANARIES), "positive control"
    if encrypted:
        pytest.importorskip("pyrage", reason="the extra `age` is not installed")
        recipient = sltool("server-keys", "--json").ok().json["recipient"]
        study = sltool.folder / "study.yaml"
        study.write_text(study.read_text().replace("recipient: null", f"recipient: {recipient}"))
    for stage in (["partition", "--ratios", "1"], ["client-encode"], ["ship", "--to", "road"]):
        ran = sltool(*stage, "--verbose").ok()
        logs.append(ran.out + ran.err)
    left = [path for name in ("outbox", "road") for path in (sltool.folder / name).rglob("*.*")]
    assert len([path for path in left if path.is_file()]) == 6
    for path in left:
        assert not any(one in path.name for one in CANARIES)
        if path.is_file():
            found = everything_in(path).upper()
            assert not [one for one in CANARIES if one.encode() in found], path
    assert not [one for one in CANARIES if one in "".join(logs)]
    for agreed in ("study.yaml", "privacy-layer.safetensors"):
        data = (sltool.folder / agreed).read_bytes()
        assert not [one for one in CANARIES if one.encode() in data]
    private = (sltool.folder / "sites" / "A" / "pseudonyms.csv").read_bytes()
    assert b"MRN0815CANARY" in private, "the way back stays at the hospital"
