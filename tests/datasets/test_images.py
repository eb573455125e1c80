"""Images without code: folders, tables, splits, depths, DICOM and NIfTI, and what is wrong."""

from __future__ import annotations

import csv
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from PIL import Image

from sltool.datasets.base import Scan
from sltool.datasets.image_folder import ImageFolder
from tests.conftest import Sltool
from tests.datasets.stages import run_to_figures
from tests.images import two_classes

TINY = ("model.name=covid-cnn", "model.filters=[2,4]", "encoding.views=1")


def adapted(source: Path, **given: Any) -> ImageFolder:
    """The dataset with the settings that a new study of this source gets."""
    settings, _ = ImageFolder.infer_settings(source, given)
    return ImageFolder(ImageFolder.Settings.model_validate({**settings, **given}))


def scan_of(source: Path, **given: Any) -> Scan:
    return adapted(source, **given).scan(source)


def write_table(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def picture(path: Path, seed: int, side: int = 40) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def some_of(source: Path, target: Path, each: int) -> Path:
    """The first files of each class folder."""
    for folder in sorted(path for path in source.iterdir() if path.is_dir()):
        (target / folder.name).mkdir(parents=True)
        for path in sorted(folder.iterdir())[:each]:
            shutil.copy(path, target / folder.name / path.name)
    return target


def test_class_folders_of_real_cts_run_through(
    sltool: Sltool, tmp_path: Path, data: Callable[[str], Path]
) -> None:
    source = some_of(data("covid-ct-sao-paulo"), tmp_path / "cts", 60)
    figures = run_to_figures(sltool, "images", "--source", source, "--set", *TINY)
    assert 0 <= figures["metrics"]["accuracy"] <= 1
    study = yaml.safe_load((sltool.folder / "study.yaml").read_text())
    assert study["samples"]["labels"]["classes"] == ["non-COVID", "COVID"]
    assert study["dataset"]["classes"] == {"non-COVID": ["non-COVID"], "COVID": ["COVID"]}


def test_the_table_of_real_x_rays_runs_through(
    sltool: Sltool, tmp_path: Path, data: Callable[[str], Path]
) -> None:
    source = data("fracatlas")
    rows = list(csv.DictReader((source / "dataset.csv").read_text().splitlines()))
    few = [row for row in rows if row["fractured"] == "1"][:40]
    few += [row for row in rows if row["fractured"] == "0"][:40]
    target = tmp_path / "x-rays"
    target.mkdir()
    write_table(target / "dataset.csv", few)
    for row in few:
        found = next(source.glob(f"images/*/{row['image_id']}"))
        shutil.copy(found, target / found.name)
    wanted = ["dataset.headers.label=fractured", "dataset.size=32", *TINY]
    figures = run_to_figures(sltool, "images", "--source", target, "--set", *wanted)
    assert "accuracy" in figures["metrics"]
    study = yaml.safe_load((sltool.folder / "study.yaml").read_text())["dataset"]
    assert study["table"] == "dataset.csv"
    assert study["headers"]["file"] == "image_id"
    assert study["classes"] == {"0": ["0"], "1": ["1"]}


def test_prepare_first_shows_its_interpretation_and_how_to_correct_it(
    sltool: Sltool, tmp_path: Path
) -> None:
    source = two_classes(tmp_path / "source", 12, ("ill", "well"))
    (source / "ill" / "notes.txt").write_text("no image")
    ran = sltool("prepare", "images", "--source", source, "--set", *TINY).ok()
    lines = ran.err.splitlines()
    assert "edit `dataset` in study.yaml" in lines[0]
    assert any("classes: well = well; ill = ill" in line for line in lines)
    assert any("48 x 48 pixels, grey; each becomes 32 x 32 pixels" in line for line in lines)
    assert any(
        "24 samples: 12 well, 12 ill ('ill' is the positive class)" in line for line in lines
    )
    assert any("skipped: 1 .txt" in line for line in lines)
    assert any("swap the two under dataset.classes in study.yaml" in line for line in lines)
    assert "Ctrl-C" in lines[0]


def test_the_mapping_is_corrected_in_study_yaml(sltool: Sltool, tmp_path: Path) -> None:
    source = two_classes(tmp_path / "source", 12, ("ill", "well"))
    sltool("prepare", "images", "--source", source, "--set", *TINY).ok()
    file = sltool.folder / "study.yaml"
    text = file.read_text()
    inferred = 'classes: {"well": ["well"], "ill": ["ill"]}'
    assert inferred in text
    file.write_text(text.replace(inferred, "classes: {fit: well, ill: ill}"))
    ran = sltool("prepare", "--source", source, "--json").ok()
    assert ran.json["classes"] == {"fit": 12, "ill": 12}


@pytest.mark.parametrize("order", ["split/class", "class/split"])
def test_train_val_and_test_folders_are_the_splits(tmp_path: Path, order: str) -> None:
    seed = 0
    for split, count in (("Train", 6), ("val", 2), ("test", 3)):
        for name in ("ill", "well"):
            for _ in range(count):
                place = f"{split}/{name}" if order == "split/class" else f"{name}/{split}"
                picture(tmp_path / "images" / place / f"{seed}.png", seed)
                seed += 1
    scan = scan_of(tmp_path)
    assert scan.official is not None
    assert [scan.official.count(split) for split in ("train", "validation", "test")] == [12, 4, 6]
    assert np.bincount(scan.labels).tolist() == [11, 11]


def test_a_table_names_patients_examinations_splits_and_sites(tmp_path: Path) -> None:
    for seed in range(6):
        picture(tmp_path / "pictures" / f"{seed}.png", seed)
    write_table(
        tmp_path / "list.csv",
        [
            {
                "Image path": f"pictures/{n}.png",
                "Diagnosis": "ill" if n % 2 else "well",
                "Patient ID": f"P{n // 2}",
                "Study": f"S{n}",
                "Split": "test" if n > 3 else "train",
                "Hospital": "north" if n in (0, 2, 3) else "south",
            }
            for n in range(6)
        ],
    )
    scan = scan_of(tmp_path)
    assert scan.groups == ["P0", "P0", "P1", "P1", "P2", "P2"]
    assert scan.examinations == [f"S{n}" for n in range(6)]
    assert scan.official == ["train"] * 4 + ["test"] * 2
    assert scan.sites == ["north", "south", "north", "north", "south", "south"]
    assert any("1 patient is at two sites (P0: north, south)" in note for note in scan.notes)


def test_the_sites_of_the_source_are_stored_in_the_private_file(
    sltool: Sltool, tmp_path: Path
) -> None:
    source = two_classes(tmp_path / "source", 4, ("ill", "well"))
    rows = [
        {"file": path.relative_to(source).as_posix(), "label": path.parent.name, "site": "north"}
        for path in sorted(source.rglob("*.png"))
    ]
    table = write_table(source / "list.csv", rows)
    sltool("prepare", "images", "--source", table, "--set", *TINY).ok()
    with h5py.File(sltool.folder / "prepared.h5") as file:
        (column,) = file["columns"].values()
        assert column.attrs["name"] == "site"
        assert set(column.asstr()[:]) == {"north"}


def test_a_patient_in_two_splits_is_noted(tmp_path: Path) -> None:
    rows = []
    for n in range(6):
        picture(tmp_path / f"{n}.png", n)
        split = ["train", "test"][n % 2]
        rows.append({"file": f"{n}.png", "label": "ab"[n % 2], "patient": "P", "split": split})
    write_table(tmp_path / "list.csv", rows)
    notes = scan_of(tmp_path).notes
    assert any("1 patient is in two of the source's splits (P: test, train)" in n for n in notes)


def test_an_excel_table_is_read(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl", reason="openpyxl is not installed: sltool[excel]")
    book = openpyxl.Workbook()
    book.active.append(["file", "label", "patient"])
    for n in range(4):
        picture(tmp_path / f"{n}.png", n)
        book.active.append([f"{n}.png", n % 2, 7])
    book.save(tmp_path / "list.xlsx")
    scan = scan_of(tmp_path / "list.xlsx")
    assert scan.labels.tolist() == [0, 1, 0, 1]
    assert set(scan.groups) == {"7"}


def loaded(sltool: Sltool, source: Path, *settings: str) -> np.ndarray:
    sltool("prepare", "images", "--source", source, "--set", *TINY, *settings).ok()
    with h5py.File(sltool.folder / "prepared.h5") as file:
        return np.asarray(file["inputs"][:])


def test_twelve_bits_in_a_file_of_sixteen_fill_the_range(sltool: Sltool, tmp_path: Path) -> None:
    ramp = np.linspace(0, 4095, 64 * 64).astype(np.uint16).reshape(64, 64)
    for index in range(6):
        path = tmp_path / "s" / ("ill", "well")[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(ramp // (index + 1)).save(path)
    made = loaded(sltool, tmp_path / "s", "dataset.size=64")
    study = yaml.safe_load((sltool.folder / "study.yaml").read_text())["dataset"]
    assert study["window"] == [2048, 4096]
    whole = next(image for image in made[:, 0] if image.max() > 250)
    assert np.abs(whole.astype(float) - ramp / 4095 * 255).max() <= 1.1


def test_colour_is_kept_and_grey_stored_as_colour_is_grey(tmp_path: Path) -> None:
    for index, name in enumerate(("ill", "well")):
        (tmp_path / "grey" / name).mkdir(parents=True)
        (tmp_path / "colour" / name).mkdir(parents=True)
        grey = Image.fromarray(np.full((40, 40), 60 + index, np.uint8)).convert("RGB")
        grey.save(tmp_path / "grey" / name / "a.png")
        Image.new("RGB", (40, 40), (200, 30, index)).save(tmp_path / "colour" / name / "a.webp")
    assert adapted(tmp_path / "grey").samples().shape == (1, 32, 32)
    assert adapted(tmp_path / "colour").samples().shape == (3, 32, 32)


def test_dicom_and_pictures_may_be_mixed(sltool: Sltool, tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed: sltool[dicom]")
    source = tmp_path / "source"
    for n in range(3):
        picture(source / "well" / f"{n}.png", n)
    (source / "ill").mkdir()
    file = pydicom.data.get_testdata_file("CT_small.dcm", download=False)
    shutil.copy(file, source / "ill" / "without-suffix")
    shutil.copy(pydicom.data.get_testdata_file("MR_small.dcm", download=False), source / "ill")
    made = loaded(sltool, source, "dataset.size=64", "dataset.channels=3")
    assert made.shape == (5, 3, 64, 64)
    with h5py.File(sltool.folder / "prepared.h5") as prepared:
        assert prepared["groups"].asstr()[:2].tolist().count("1CT1") <= 1
        assert "1CT1" in prepared["groups"].asstr()[:].tolist()


def volume(path: Path, shape: tuple[int, ...] = (24, 20, 6)) -> np.ndarray:
    nibabel = pytest.importorskip("nibabel", reason="nibabel is not installed: sltool[nifti]")
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(len(path.name)).normal(40, 100, shape).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.0, -1.0, 2.0, 1.0])), path)
    return values


def test_nifti_slices_are_axial_and_as_radiologists_see_them(tmp_path: Path) -> None:
    values = volume(tmp_path / "ill" / "patient-1.nii.gz")
    volume(tmp_path / "well" / "patient-23.nii")
    scan = scan_of(tmp_path, size=24, pad=True, window=(40, 400), frames="all")
    assert len(scan) == 12
    assert scan.groups[0] == "ill/patient-1.nii.gz"
    assert callable(scan.inputs)
    made = scan.inputs(2)[0]
    # The affine's axes point to the left and to the back: rows and columns are as stored.
    expected = np.clip((values[:, :, 2].T - 39.5) / 399 + 0.5, 0, 1) * 255
    assert np.abs(made[2:22].astype(float) - expected).max() <= 1
    assert not made[:2].any()
    middle = scan_of(tmp_path, frames="middle")
    assert list(middle.records) == ["ill/patient-1.nii.gz#4", "well/patient-23.nii#4"]


def test_truncated_volumes_are_refused(sltool: Sltool, tmp_path: Path) -> None:
    for n in range(3):
        volume(tmp_path / "ill" / f"{'x' * (n + 1)}.nii")
        volume(tmp_path / "well" / f"{'y' * (n + 5)}.nii.gz")
    cut = tmp_path / "well" / "yyyyy.nii.gz"
    cut.write_bytes(cut.read_bytes()[:2000])
    (tmp_path / "ill" / "none.nii").write_bytes(b"no volume" * 100)
    volume(tmp_path / "ill" / "four.nii", (4, 4, 4, 2))
    ran = sltool(
        "prepare", "images", "--source", tmp_path, "--json", "--set", *TINY, "dataset.frames=middle"
    ).ok()
    reasons = {refused["record"]: refused["reason"] for refused in ran.json["refused"]}
    assert "cannot be read" in reasons["well/yyyyy.nii.gz#4"]
    assert "not a NIfTI volume" in reasons["ill/none.nii"]
    assert "(4, 4, 4, 2)" in reasons["ill/four.nii"]


def test_a_folder_without_classes_is_refused(sltool: Sltool, tmp_path: Path) -> None:
    picture(tmp_path / "source" / "a.png", 0)
    ran = sltool("prepare", "images", "--source", tmp_path / "source")
    assert ran.code == 3
    assert "there is no class (folders)" in ran.err
    assert "has: a.png" in ran.err
    assert "the folder above the class folders" in ran.err
    assert not (sltool.folder / "study.yaml").exists()


def test_a_single_class_is_refused(sltool: Sltool, tmp_path: Path) -> None:
    for n in range(3):
        picture(tmp_path / "source" / "ill" / f"patient{n}" / "a.png", n)
    ran = sltool("prepare", "images", "--source", tmp_path / "source")
    assert ran.code == 3
    assert "there is one class only, 'ill'" in ran.err


def test_unreadable_and_truncated_files_are_refused_with_their_reason(
    sltool: Sltool, tmp_path: Path
) -> None:
    source = two_classes(tmp_path / "source", 60, ("ill", "well"))
    whole = (source / "ill" / "image000.png").read_bytes()
    (source / "ill" / "image000.png").write_bytes(whole[: len(whole) // 2])
    ran = sltool("prepare", "images", "--source", source, "--json", "--set", *TINY).ok()
    assert ran.json["samples"] == 119
    (message,) = ran.json["refused"]
    assert message["record"] == "ill/image000.png"
    assert "truncated" in message["reason"]
    for n in range(1, 5):
        (source / "ill" / f"image{n:03d}.png").write_bytes(b"text " * (n + 10))
    ran = sltool("prepare", "--source", source)
    assert ran.code == 3
    assert "5 of 120 files cannot be read" in ran.err


def test_a_copy_in_another_split_is_found_by_its_bytes(tmp_path: Path) -> None:
    for n in range(8):
        picture(tmp_path / "train" / "ab"[n % 2] / f"{n}.png", n)
    (tmp_path / "test" / "a").mkdir(parents=True)
    picture(tmp_path / "test" / "b" / "9.png", 9)
    shutil.copy(tmp_path / "train" / "a" / "0.png", tmp_path / "test" / "a" / "other-name.png")
    scan = scan_of(tmp_path)
    assert "train/a/0.png" not in scan.records
    assert "test/a/other-name.png" in scan.records
    (refused,) = scan.refused
    assert refused.record == "train/a/0.png"
    assert refused.reason == "the same file as test/a/other-name.png"
    assert any("1 image is in two of the source's splits" in note for note in scan.notes)


def test_copies_with_two_labels_are_refused_both(tmp_path: Path) -> None:
    for n in range(4):
        picture(tmp_path / "ab"[n % 2] / f"{n}.png", n)
    shutil.copy(tmp_path / "a" / "0.png", tmp_path / "b" / "copy.png")
    scan = scan_of(tmp_path)
    reasons = {refused.record: refused.reason for refused in scan.refused}
    assert reasons == {
        "a/0.png": "the same file as b/copy.png, which has the label 'b'",
        "b/copy.png": "the same file as a/0.png, which has the label 'a'",
    }
    assert len(scan) == 3


def test_a_mistyped_label_column_gets_the_nearest_name(
    sltool: Sltool, data: Callable[[str], Path]
) -> None:
    ran = sltool(
        *("prepare", "images", "--source", data("fracatlas")),
        *("--set", "dataset.headers.label=fractred"),
    )
    assert ran.code == 3
    assert "no column 'fractred'; did you mean 'fractured'?" in ran.err


def labelled(folder: Path, labels: list[str], **columns: list[str]) -> Path:
    rows = []
    for n, label in enumerate(labels):
        picture(folder / f"{n}.png", n)
        rows.append({"file": f"{n}.png", "label": label, **{k: v[n] for k, v in columns.items()}})
    return write_table(folder / "list.csv", rows)


def test_a_mistyped_label_is_suspected_and_can_be_joined(sltool: Sltool, tmp_path: Path) -> None:
    labelled(tmp_path, ["normal"] * 12 + ["tumour"] * 12 + ["tumuor"])
    ran = sltool("prepare", "images", "--source", tmp_path, "--set", *TINY).ok()
    assert "'tumuor' has 1 sample and is spelt like 'tumour'" in ran.err
    file = sltool.folder / "study.yaml"
    before = 'classes: {"normal": ["normal"], "tumour": ["tumour"], "tumuor": ["tumuor"]}'
    assert before in file.read_text()
    joined = "classes: {normal: normal, tumour: [tumour, tumuor]}"
    file.write_text(file.read_text().replace(before, joined))
    ran = sltool("prepare", "--source", tmp_path, "--json").ok()
    assert ran.json["classes"] == {"normal": 12, "tumour": 13}


def test_a_label_that_the_study_does_not_have_is_refused_at_another_site(
    sltool: Sltool, tmp_path: Path
) -> None:
    first = two_classes(tmp_path / "first", 6, ("ill", "well"))
    second = two_classes(tmp_path / "second", 6, ("ill", "well"))
    picture(second / "Well" / "a.png", 99)
    sltool("prepare", "images", "--source", first, "--set", *TINY).ok()
    ran = sltool("prepare", "--source", second, "--json").ok()
    (refused,) = ran.json["refused"]
    expected = "its label 'Well' is none of dataset.classes; did you mean 'well'?"
    assert refused == {"record": "Well/a.png", "reason": expected}


def test_rows_that_name_no_file_or_no_split_are_refused(tmp_path: Path) -> None:
    split = ["train", "trian", "test", "", "test"]
    table = labelled(tmp_path, ["a", "b", "a", "b", "b"], split=split)
    (tmp_path / "4.png").unlink()
    table.write_text(table.read_text() + "0.png,b,test\n../outside.png,a,test\n")
    scan = scan_of(tmp_path)
    reasons = {refused.record: refused.reason for refused in scan.refused}
    assert reasons.pop("line 6: 4.png") == "there is no such image"
    assert reasons.pop("line 7: 0.png") == "line 2 names the same file"
    assert reasons.pop("line 8: ../outside.png") == "there is no such image"
    wrong = "its split 'trian' is none of dataset.splits; did you mean 'train'?"
    assert reasons == {"1.png": wrong}
    assert scan.official == ["train", "test", ""]


def test_a_table_outside_the_source_is_not_opened(sltool: Sltool, tmp_path: Path) -> None:
    source = two_classes(tmp_path / "source", 3, ("ill", "well"))
    (tmp_path / "secret.csv").write_text("file,label\n")
    ran = sltool("prepare", "images", "--source", source, "--set", "dataset.table=../secret.csv")
    assert ran.code == 3
    assert "'../secret.csv' is not in the source" in ran.err


def test_accents_as_macos_spells_them(tmp_path: Path) -> None:
    """A folder from a Mac, whose names have accents as letters of their own, is the same class."""
    classes = {"gesund": ["gesund"], "Kränk": [unicodedata.normalize("NFC", "Kränk")]}
    rows = []
    for index, name in enumerate(("gesund", "Kränk") * 3):
        spelt = unicodedata.normalize("NFD", f"{name}/Bild ü{index}.png")
        picture(tmp_path / "source" / spelt, index)
        rows.append({"file": f"Bild ü{index}", "label": unicodedata.normalize("NFC", name)})
    folders = scan_of(tmp_path / "source", classes=classes)
    assert folders.labels.tolist() == [1, 1, 1, 0, 0, 0]
    assert not folders.refused
    write_table(tmp_path / "source" / "table.csv", rows)
    headers = {"file": "file", "label": "label"}
    listed = scan_of(tmp_path / "source", classes=classes, table="table.csv", headers=headers)
    assert listed.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert not listed.refused
