"""Chest CTs: the real slices of Sao Paulo, and how pictures of all kinds are read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from sltool.datasets.images import Decode, decode_image
from tests.conftest import Sltool

Data = Callable[[str], Path]


def test_sao_paulo(sltool: Sltool, data: Data) -> None:
    source = data("covid-ct-sao-paulo")
    done = sltool("prepare", "covid-ct", "--source", source, "--json").ok().json
    assert done["samples"] == 2481
    assert done["classes"] == {"non-COVID": 1229, "COVID": 1252}
    assert "slices of one patient may fall on both sides" in " ".join(done["notes"])
    with h5py.File(sltool.folder / "prepared.h5") as file:
        assert file["inputs"].shape == (2481, 1, 64, 64)
        number = 1300
        name = file["records"].asstr()[number]
        picture = Image.open(source / name).convert("L").resize((64, 64), Image.Resampling.BILINEAR)
        assert (file["inputs"][number, 0] == np.asarray(picture)).all()
        assert file["labels"][number] == name.startswith("COVID")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_every_mode_becomes_grey(tmp_path: Path, mode: str) -> None:
    """A picture that is bright on the right stays so, whatever its mode."""
    ramp = np.linspace(0, 255, 40)[None].repeat(30, axis=0)
    if mode in ("I;16", "I"):
        picture = Image.fromarray((ramp * 257).astype(np.uint16 if mode == "I;16" else np.int32))
    elif mode == "F":
        picture = Image.fromarray((ramp / 255).astype(np.float32))
    else:
        picture = Image.fromarray(ramp.astype(np.uint8)).convert(mode)
    path = tmp_path / ("picture.tif" if mode in ("CMYK", "F", "I") else "picture.png")
    picture.save(path)
    grey = decode_image(path, Decode(8, 8))
    assert grey.shape == (1, 8, 8)
    assert grey.dtype == np.uint8
    assert grey[0, :, :3].mean() < 70
    assert grey[0, :, -3:].mean() > 180


def test_padding_keeps_the_aspect_ratio(tmp_path: Path) -> None:
    path = tmp_path / "wide.png"
    Image.fromarray(np.full((20, 40), 200, np.uint8)).save(path)
    padded = decode_image(path, Decode(16, 16, pad=True))[0]
    assert (padded[:4] == 0).all()
    assert (padded[4:12] == 200).all()
    assert (decode_image(path, Decode(16, 16))[0] == 200).all()
