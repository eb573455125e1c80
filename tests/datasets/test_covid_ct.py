"""Chest CTs: the real slices of Sao Paulo, and how images of all modes are read."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from sltool.datasets.images import Decode, decode_image
from tests.conftest import Sltool
from tests.datasets.stages import run_to_figures

Data = Callable[[str], Path]

SMALL = ("--set", "dataset.size=32", "encoding.views=1")


def test_sao_paulo(sltool: Sltool, data: Data) -> None:
    source = data("covid-ct-sao-paulo")
    done = sltool("prepare", "covid-ct", "--source", source, "--json").ok().json
    assert done["samples"] == 2481
    assert done["classes"] == {"non-COVID": 1229, "COVID": 1252}
    assert "slices of one patient may fall on both sides" in " ".join(done["notes"])
    with h5py.File(sltool.folder / "prepared.h5") as file:
        assert file["inputs"].shape == (2481, 1, 64, 64)
        sample = 1300
        name = file["records"].asstr()[sample]
        picture = Image.open(source / name).convert("L").resize((64, 64), Image.Resampling.BILINEAR)
        assert (file["inputs"][sample, 0] == np.asarray(picture)).all()
        assert file["labels"][sample] == name.startswith("COVID")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_every_mode_becomes_grey(tmp_path: Path, mode: str) -> None:
    """An image that is brighter on the right stays so, whatever its mode."""
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


def slices(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(len(names))
    for name in names:
        Image.fromarray(rng.integers(0, 255, (40, 50), dtype=np.uint8)).save(folder / name)


def pseudonyms(sltool: Sltool) -> list[dict[str, str]]:
    found = []
    for path in (sltool.folder / "sites").glob("*/pseudonyms.csv"):
        with path.open(encoding="utf-8") as file:
            found += list(csv.DictReader(file))
    return found


@pytest.fixture
def sao_paulo(tmp_path: Path) -> Path:
    root = tmp_path / "sao-paulo"
    slices(root / "COVID", [f"Covid_({n}).png" for n in range(40)])
    slices(root / "non-COVID", [f"Non-Covid_({n}).png" for n in range(40)])
    return root


@pytest.fixture
def ucsd(tmp_path: Path) -> Path:
    """The repository after its two archives are unpacked."""
    root = tmp_path / "COVID-CT-master"
    for name, folder in (("COVID", "CT_COVID"), ("NonCOVID", "CT_NonCOVID")):
        files = [f"2020.01.24.919183-p27-{n}.{'png' if n % 2 else 'jpg'}" for n in range(30)]
        slices(root / "Images-processed" / folder, files)
        lists = root / "Data-split" / name
        lists.mkdir(parents=True)
        for split, part in (("train", files[:18]), ("val", files[18:22]), ("test", files[22:29])):
            (lists / f"{split}CT_{name}.txt").write_text("\r\n".join(part) + "\r\n")
    with (root / "Data-split" / "COVID" / "testCT_COVID.txt").open("a") as file:
        file.write("gone.png\n")
    return root


@pytest.fixture
def curated(tmp_path: Path) -> Path:
    """The unpacked archive: tables at the top, class folders two levels below; Latin-1 tables."""
    root = tmp_path / "large"
    for folder, table, prefix in (
        ("1NonCOVID", "meta_data_normal.csv", "normal"),
        ("2COVID", "meta_data_covid.csv", "covid"),
        ("3CAP", "meta_data_cap.csv", "cap"),
    ):
        names = [f"{prefix}_{patient}_{n}.png" for patient in range(12) for n in range(5)]
        slices(root / "curated_data" / "curated_data" / folder, names)
        rows = [f"{name},{prefix} {name.split('_')[1]},Médecine" for name in names[:-1]]
        (root / table).write_bytes(
            "\n".join(["File name,Patient ID,Source", *rows]).encode("latin-1")
        )
    return root


def test_sao_paulo_is_recognised_and_the_leak_is_noted(sltool: Sltool, sao_paulo: Path) -> None:
    done = sltool("prepare", "covid-ct", "--source", sao_paulo, *SMALL, "--json").ok().json
    assert done["classes"] == {"non-COVID": 40, "COVID": 40}
    notes = " ".join(done["notes"])
    assert "Sao Paulo" in notes
    assert "names no patients" in notes


def test_ucsd_is_recognised_and_its_official_split_is_used(sltool: Sltool, ucsd: Path) -> None:
    done = sltool("prepare", "covid-ct", "--source", ucsd, *SMALL, "--json").ok().json
    assert done["classes"] == {"non-COVID": 30, "COVID": 30}
    assert [refused["record"] for refused in done["refused"]] == ["COVID/gone.png"]
    notes = " ".join(done["notes"])
    assert "UCSD" in notes
    assert "2 slices are in no split list" in notes
    counts = sltool("partition", "--ratios", "1", "--json").ok().json["sites"]["A"]
    assert counts == {"train": 38, "validation": 8, "test": 14}
    for row in pseudonyms(sltool):
        place = int(row["record"].split("-")[-1].split(".")[0])
        expected = "test" if 22 <= place < 29 else "validation" if 18 <= place < 22 else "train"
        assert row["split"] == expected


def test_ucsd_can_be_split_at_random(sltool: Sltool, ucsd: Path) -> None:
    setting = ("--set", "split.official=false")
    sltool("prepare", "covid-ct", "--source", ucsd, *SMALL, *setting).ok()
    counts = sltool("partition", "--ratios", "1", "--json").ok().json["sites"]["A"]
    assert counts == {"train": 48, "validation": 6, "test": 6}


def test_the_curated_set_has_three_classes_and_each_patient_is_in_one_split(
    sltool: Sltool, curated: Path
) -> None:
    done = sltool("prepare", "covid-ct", "--source", curated, *SMALL, "--json").ok().json
    assert done["classes"] == {"non-COVID": 60, "COVID": 60, "CAP": 60}
    assert any("3 of 180 slices have no patient" in note for note in done["notes"])
    sltool("partition").ok()
    places = defaultdict(set)
    for path in (sltool.folder / "sites").glob("*/pseudonyms.csv"):
        with path.open(encoding="utf-8") as file:
            for row in csv.DictReader(file):
                places[row["patient"]].add((path.parent.name, row["split"]))
    assert len(places) == 36 + 3
    assert set(map(len, places.values())) == {1}


def test_cap_can_be_left_out(sltool: Sltool, curated: Path) -> None:
    two = ("--set", "dataset.classes=[non-COVID, COVID]")
    done = sltool("prepare", "covid-ct", "--source", curated, *SMALL, *two, "--json").ok().json
    assert done["classes"] == {"non-COVID": 60, "COVID": 60}
    assert any("a class CAP too" in note for note in done["notes"])


def test_three_classes_run_to_figures(sltool: Sltool, curated: Path) -> None:
    figures = run_to_figures(sltool, "covid-ct", "--source", curated, *SMALL, ratios="1")
    assert {"accuracy", "f1", "kappa"} <= set(figures["metrics"])
    by_patient = sltool("evaluate", "--level", "patient", "--json").ok().json
    assert by_patient["samples"] < figures["samples"]
    ran = sltool("evaluate", "--level", "study")
    assert ran.code == 2
    assert "which images belong to one examination" in ran.err


def test_own_folders_can_be_named(sltool: Sltool, tmp_path: Path) -> None:
    slices(tmp_path / "own" / "ill", [f"{n}.png" for n in range(20)])
    slices(tmp_path / "own" / "well", [f"{n}.png" for n in range(20)])
    folders = ("--set", "dataset.folders={COVID: ill, non-COVID: well}")
    done = sltool("prepare", "covid-ct", "--source", tmp_path / "own", *SMALL, *folders, "--json")
    assert done.ok().json["classes"] == {"non-COVID": 20, "COVID": 20}


def test_another_folder_is_refused_with_what_is_there(sltool: Sltool, tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    ran = sltool("prepare", "covid-ct", "--source", tmp_path)
    assert ran.code == 3
    assert "scans" in ran.err
    assert "1NonCOVID" in ran.err


def test_the_real_slices_run_to_figures(sltool: Sltool, data: Data, tmp_path: Path) -> None:
    real = data("covid-ct-sao-paulo")
    for folder in ("COVID", "non-COVID"):
        (tmp_path / "some" / folder).mkdir(parents=True)
        for path in sorted((real / folder).iterdir())[:120]:
            (tmp_path / "some" / folder / path.name).symlink_to(path)
    figures = run_to_figures(sltool, "covid-ct", "--source", tmp_path / "some")
    assert 0 <= figures["metrics"]["accuracy"] <= 1
