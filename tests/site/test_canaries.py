"""Marked images through the hospital's stages: no mark is in anything that leaves or is logged."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from tests.conftest import ROOT, Sltool

CANARIES = ("CANARYTEXT", "CANARYEXIF", "MRN0815CANARY", "CANARYPATIENT")


def make_marked(folder: Path, count: int, seed: int) -> None:
    """PNGs and JPEGs with marks in text chunks, EXIF and names."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for n in range(count):
        picture = Image.fromarray(rng.integers(0, 255, (24, 24), dtype=np.uint8))
        exif = Image.Exif()
        exif[0x010E] = exif[0x013B] = "CANARYEXIF"
        text = PngImagePlugin.PngInfo()
        text.add_text("PatientName", "CANARYTEXT CANARYPATIENT")
        if n % 2:
            picture.save(folder / f"MRN0815CANARY-{n}.png", pnginfo=text, exif=exif)
        else:
            picture.save(folder / f"MRN0815CANARY-{n}.jpg", exif=exif, comment=b"CANARYTEXT")


def make_marked_dicom(folder: Path, count: int, seed: int) -> None:
    """DICOM files with marks in the patient's name, number and comments, and in their names."""
    import pydicom

    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    template = pydicom.data.get_testdata_file("CT_small.dcm", download=False)
    for n in range(count):
        file = pydicom.dcmread(template)
        file.PatientName = "CANARYPATIENT^Anna"
        file.PatientID = f"MRN0815CANARY-{seed}-{n}"
        file.SOPInstanceUID = pydicom.uid.generate_uid()
        file.PatientComments = "CANARYTEXT"
        file.StudyDescription = "CANARYEXIF"
        pixels = rng.integers(0, 1000, (file.Rows, file.Columns), dtype=np.int16)
        file.PixelData = pixels.tobytes()
        file.save_as(folder / f"MRN0815CANARY-{n}.dcm")


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


def marks_in(data: bytes) -> list[str]:
    return [canary for canary in CANARIES if canary.encode() in data.upper()]


def check_nothing_left(sltool: Sltool, logs: list[str]) -> None:
    """Encode and ship; no mark is in a shipped file, in the agreement, or in a log."""
    for stage in (["partition", "--ratios", "1"], ["client-encode"], ["ship", "--to", "road"]):
        ran = sltool(*stage, "--verbose").ok()
        logs.append(ran.out + ran.err)
    left = [path for name in ("outbox", "road") for path in (sltool.folder / name).rglob("*.*")]
    assert len([path for path in left if path.is_file()]) == 6
    agreed = [sltool.folder / name for name in ("study.yaml", "privacy-layer.safetensors")]
    for path in [*left, *agreed]:
        assert not marks_in(path.name.encode())
        if path.is_file():
            assert not marks_in(everything_in(path)), path
    assert not marks_in("".join(logs).encode())
    private = (sltool.folder / "sites" / "A" / "pseudonyms.csv").read_bytes()
    assert b"MRN0815CANARY" in private, "the way back stays at the hospital"


def check_source(source: Path) -> None:
    """The positive control: every mark is in the source."""
    paths = [path for path in source.rglob("*") if path.is_file()]
    everything = b"".join(path.read_bytes() + path.name.encode() for path in paths)
    assert marks_in(everything) == list(CANARIES)


@pytest.mark.parametrize("encrypted", [False, True])
def test_no_mark_of_a_picture_leaves_the_hospital(
    sltool: Sltool, tmp_path: Path, encrypted: bool
) -> None:
    source = tmp_path / "ct"
    for seed, name in enumerate(("COVID", "non-COVID")):
        make_marked(source / name, 15, seed)
    check_source(source)
    ran = sltool("prepare", "covid-ct", "--source", source, "--verbose").ok()
    if encrypted:
        pytest.importorskip("pyrage", reason="the extra `age` is not installed")
        recipient = sltool("server-keys", "--json").ok().json["recipient"]
        study = sltool.folder / "study.yaml"
        study.write_text(study.read_text().replace("recipient: null", f"recipient: {recipient}"))
    check_nothing_left(sltool, [ran.out + ran.err])


def test_no_mark_of_a_dicom_file_leaves_the_hospital(
    sltool: Sltool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pydicom", reason="the extra `dicom` is not installed")
    monkeypatch.setenv("SLTOOL_PLUGINS", str(ROOT / "plugins" / "dicom.py"))
    source = tmp_path / "ct"
    for seed, name in enumerate(("well", "sick")):
        make_marked_dicom(source / name, 15, seed)
    check_source(source)
    classes = "dataset.classes={well: well, sick: sick}"
    ran = sltool(
        "prepare", "dicom", "--source", source, "--set", classes, "dataset.size=64", "--verbose"
    ).ok()
    check_nothing_left(sltool, [ran.out + ran.err])
