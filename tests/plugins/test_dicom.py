"""The DICOM plug-in on the files that pydicom and pydicom-data bring along."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sltool.datasets.base import Scan, UnreadableSampleError
from sltool.errors import BadDataError
from sltool.registry import datasets, load_plugins
from tests.conftest import ROOT, Sltool

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed: sltool[dicom]")
pytest.importorskip("data_store", reason="pydicom-data is not installed")
PLUGIN = ROOT / "plugins" / "dicom.py"


def sample_file(name: str) -> Path:
    path = pydicom.data.get_testdata_file(name, download=False)
    assert path, f"{name} is not among pydicom's test files"
    return Path(path)


def scan_of(folder: Path, names: list[str], **settings: Any) -> Scan:
    """The scan of a source with these files in the class `sick`, and one other in `well`."""
    load_plugins([PLUGIN])
    kind = datasets.get("dicom")
    for group, files in (("well", ["CT_small.dcm"]), ("sick", names)):
        (folder / group).mkdir(parents=True)
        for name in files:
            shutil.copy(sample_file(name), folder / group / name)
    options = {"size": 64, "classes": {"well": "well", "sick": "sick"}, **settings}
    scan: Scan = kind(kind.Settings(**options)).scan(folder)
    return scan


def pictures(scan: Scan) -> list[np.ndarray]:
    assert callable(scan.inputs)
    return [scan.inputs(sample) for sample in range(len(scan))]


def test_the_window_and_the_rescaling_are_the_standards(tmp_path: Path) -> None:
    made = pictures(scan_of(tmp_path, ["693_UNCI.dcm"], size=512))[1][0]
    file = pydicom.dcmread(sample_file("693_UNCI.dcm"))
    hounsfield = file.pixel_array * 1.0 - 1024
    centre, width = float(file.WindowCenter), float(file.WindowWidth)
    expected = np.clip((hounsfield - (centre - 0.5)) / (width - 1) + 0.5, 0, 1) * 255
    assert np.abs(made - expected).max() <= 0.51


def test_the_studys_window_overrides_the_files(tmp_path: Path) -> None:
    made = pictures(scan_of(tmp_path, ["693_UNCI.dcm"], size=512, window=[0, 100]))[1][0]
    hounsfield = pydicom.dcmread(sample_file("693_UNCI.dcm")).pixel_array * 1.0 - 1024
    assert (made[hounsfield < -50] == 0).all()
    assert (made[hounsfield > 50] == 255).all()


@pytest.mark.parametrize(
    ("compressed", "plain"),
    [
        ("RG1_J2KR.dcm", "RG1_UNCR.dcm"),  # JPEG 2000 lossless, MONOCHROME1
        ("MR_small_RLE.dcm", "MR_small.dcm"),
        ("MR_small_jp2klossless.dcm", "MR_small.dcm"),
        ("MR_small_bigendian.dcm", "MR_small.dcm"),
        ("US1_J2KR.dcm", "US1_UNCR.dcm"),  # colour
        ("OBXXXX1A_rle.dcm", "OBXXXX1A.dcm"),  # a palette
    ],
)
def test_compression_changes_nothing(tmp_path: Path, compressed: str, plain: str) -> None:
    found = [pictures(scan_of(tmp_path / name, [name]))[1] for name in (compressed, plain)]
    assert np.array_equal(*found)
    assert found[0].std() > 5


def test_monochrome1_is_turned_to_white_on_black(tmp_path: Path) -> None:
    made = pictures(scan_of(tmp_path, ["RG1_UNCR.dcm"], size=256))[1][0].astype(float)
    file = pydicom.dcmread(sample_file("RG1_UNCR.dcm"))
    assert file.PhotometricInterpretation == "MONOCHROME1"
    from PIL import Image

    raw = Image.fromarray(file.pixel_array.astype(np.float32)).resize((256, 256))
    assert np.corrcoef(made.ravel(), np.asarray(raw).ravel())[0, 1] < -0.5


def test_every_frame_is_a_sample_of_one_examination(tmp_path: Path) -> None:
    scan = scan_of(tmp_path, ["emri_small.dcm"])
    assert len(scan) == 11
    assert len(set(scan.groups[1:])) == 1
    assert scan.examinations is not None
    assert len(set(scan.examinations[1:])) == 1
    assert scan.records[1].endswith("emri_small.dcm#1")
    frames = pictures(scan)[1:]
    assert all(frame.std() > 0 for frame in frames)
    assert len({frame.tobytes() for frame in frames}) == 10


def test_the_middle_frame_alone(tmp_path: Path) -> None:
    assert list(scan_of(tmp_path, ["emri_small.dcm"], frames="middle").records)[1:] == [
        str(Path("sick") / "emri_small.dcm#6")
    ]


def test_frames_have_their_own_rescaling(tmp_path: Path) -> None:
    made = pictures(scan_of(tmp_path, ["eCT_Supplemental.dcm"], size=512, window=[40, 400]))[1:]
    file = pydicom.dcmread(sample_file("eCT_Supplemental.dcm"))
    shared = file.SharedFunctionalGroupsSequence[0]
    group = shared if "PixelValueTransformationSequence" in shared else None
    group = group or file.PerFrameFunctionalGroupsSequence[0]
    transform = group.PixelValueTransformationSequence[0]
    values = file.pixel_array[0] * float(transform.RescaleSlope) + float(transform.RescaleIntercept)
    assert (made[0][0][values > 241] == 255).all()
    assert (made[0][0][values < -161] == 0).all()
    assert len(made) == 2


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("MR_small_jpeg_ls_lossless.dcm", "no decoder is installed for its compression, JPEG-LS"),
        ("JPEG-LL.dcm", "JPEG Lossless"),
        ("rtplan.dcm", "without a picture"),
        ("no_meta.dcm", "not a DICOM file"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path, name: str, reason: str) -> None:
    scan = scan_of(tmp_path, [name])
    if not scan.refused:
        pytest.skip(f"a decoder for {name} is installed")
    assert len(scan) == 1
    assert scan.refused[0].record == str(Path("sick") / name)
    assert reason in scan.refused[0].reason


def test_a_truncated_picture_is_unreadable(tmp_path: Path) -> None:
    scan = scan_of(tmp_path, ["MR_small.dcm"])
    path = tmp_path / "sick" / "MR_small.dcm"
    path.write_bytes(path.read_bytes()[:-4000])
    assert callable(scan.inputs)
    with pytest.raises(UnreadableSampleError, match="cannot be decoded"):
        scan.inputs(1)


def change(path: Path, **tags: Any) -> None:
    file = pydicom.dcmread(path)
    for name, value in tags.items():
        setattr(file, name, value)
    file.save_as(path)


def test_a_name_in_the_picture_is_refused_unless_the_study_says_so(tmp_path: Path) -> None:
    for folder, allowed, taken in (("a", False, 1), ("b", True, 2)):
        scan_of(tmp_path / folder, ["MR_small.dcm"])
        change(tmp_path / folder / "sick" / "MR_small.dcm", BurnedInAnnotation="YES")
        kind = datasets.get("dicom")
        settings = kind.Settings(classes={"w": "well", "s": "sick"}, burned_in=allowed)
        scan = kind(settings).scan(tmp_path / folder)
        assert len(scan) == taken
        assert len(scan.refused) == 2 - taken
        assert any("not say whether" in note for note in scan.notes)
    assert "dataset.burned_in" in scan_after_refusal(tmp_path / "a")


def scan_after_refusal(folder: Path) -> str:
    kind = datasets.get("dicom")
    scan = kind(kind.Settings(classes={"w": "well", "s": "sick"})).scan(folder)
    return str(scan.refused[0].reason)


def test_patients_and_examinations_are_the_files_own(tmp_path: Path) -> None:
    scan = scan_of(tmp_path, ["MR_small.dcm", "693_UNCI.dcm"])
    for sample, name in enumerate(["693_UNCI.dcm", "MR_small.dcm"], start=1):
        file = pydicom.dcmread(sample_file(name))
        assert scan.examinations is not None
        assert scan.examinations[sample] == file.StudyInstanceUID
        assert scan.groups[sample] == (file.PatientID or file.StudyInstanceUID)


def test_the_same_image_twice_is_taken_once(tmp_path: Path) -> None:
    scan = scan_of(tmp_path, ["CT_small.dcm"])
    assert len(scan) == 1
    assert "the same image as" in scan.refused[0].reason


def write_patients(folder: Path, patients: int) -> None:
    """`number` CT files of made-up patients, and a table of labels with two defects."""
    lines = ["file,label"]
    rng = np.random.default_rng(0)
    for patient in range(patients):
        file = pydicom.dcmread(sample_file("CT_small.dcm"))
        file.PatientID = f"P{patient:03d}"
        file.StudyInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[f"study {patient}"])
        file.SOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[f"image {patient}"])
        noise = rng.integers(0, 100 + 200 * (patient % 2), file.pixel_array.shape)
        file.PixelData = (file.pixel_array + noise).astype(np.int16).tobytes()
        file.save_as(folder / f"{patient}.dcm")
        lines.append(f"{patient}.dcm,{('clear', 'nodule')[patient % 2]}")
    lines += ["missing.dcm,clear", "0.dcm,unsure"]
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


def test_the_whole_pipeline_with_a_table_of_labels(
    sltool: Sltool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLTOOL_PLUGINS", str(PLUGIN))
    source = tmp_path / "archive"
    source.mkdir()
    write_patients(source, 40)
    sets = ["dataset.size=64", "model.widths=[4, 8]", "training.epochs=2", "training.batch_size=8"]
    sets.append("dataset.classes={clear: clear, nodule: nodule}")
    options = [word for setting in sets for word in ("--set", setting)]
    done = sltool("prepare", "dicom", "--source", source, *options, "--json").ok().json
    assert done["samples"] == 40
    assert done["classes"] == {"clear": 20, "nodule": 20}
    assert {refused["record"] for refused in done["refused"]} == {"missing.dcm", "0.dcm"}
    sltool("partition").ok()
    sltool("client-encode").ok()
    sltool("ship").ok()
    sltool("server-train").ok()
    assert sltool("evaluate", "--json").ok().json["samples"] == 4
    shipped = b"".join(path.read_bytes() for path in sltool.folder.rglob("accepted/*.h5"))
    assert b"P001" not in shipped


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: shutil.rmtree(folder / "sick"), "the class folder 'sick' is missing"),
        (lambda folder: shutil.rmtree(folder), "does not exist"),
    ],
)
def test_another_layout_is_refused(
    tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    source = tmp_path / "source"
    scan_of(source, ["MR_small.dcm"])
    spoil(source)
    kind = datasets.get("dicom")
    with pytest.raises(BadDataError, match=message):
        kind(kind.Settings(classes={"well": "well", "sick": "sick"})).scan(source)
