"""MURA: the real layout, every difference between tree and csv, and scores by examination."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import accuracy_score, cohen_kappa_score, roc_auc_score

from sltool.datasets.mura import BODY_PARTS
from sltool.datasets.mura_synthetic import write_synthetic
from tests.conftest import Sltool
from tests.datasets.stages import run_to_figures

SMALL = ("--set", "model.name=covid-cnn", "dataset.size=32", "encoding.views=1")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """210 synthetic images of all seven parts of the body, in both lists."""
    return write_synthetic(tmp_path / "source", 210, 0, BODY_PARTS)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_without_a_source_the_message_says_how_to_obtain_the_data(sltool: Sltool) -> None:
    ran = sltool("prepare", "mura")
    assert ran.code == 2
    for line in (
        "stanfordmlgroup.github.io/competitions/mura",
        "MURA-v1.1/train/XR_SHOULDER/patient00001/study1_positive/image1.png",
        "train_labeled_studies.csv",
        "--synthetic",
    ):
        assert line in ran.err
    assert not list(sltool.folder.iterdir())


def test_another_tree_is_refused_before_a_study_is_made(sltool: Sltool, tmp_path: Path) -> None:
    ran = sltool("prepare", "mura", "--source", tmp_path)
    assert ran.code == 3
    assert "train_image_paths.csv" in ran.err
    assert not (sltool.folder / "study.yaml").exists()


def test_synthetic_images_have_all_parts_sizes_and_modes_and_the_real_layout(
    sltool: Sltool,
) -> None:
    done = sltool("prepare", "mura", "--synthetic", 140, *SMALL, "--json").ok().json
    assert done["samples"] == 140
    assert "synthetic" in done["notes"][0]
    parts = {row["part"] for row in done["parts"]}
    assert parts == {*BODY_PARTS, "all"}
    images = list((sltool.folder / "synthetic").rglob("image*.png"))
    modes, sizes = set(), set()
    for path in images:
        with Image.open(path) as image:
            modes.add(image.mode)
            sizes.add(image.size)
    assert modes == {"L", "RGB"}
    assert len(sizes) > 50
    text = sltool("prepare", "mura", "--synthetic", 140, *SMALL, "--force").ok().out
    assert text.splitlines()[0].split() == [
        "part",
        "list",
        "total",
        "positive",
        "negative",
        "studies",
        "patients",
    ]
    assert "already prepared" in sltool("prepare", "mura", "--synthetic", 140, *SMALL).ok().out


def test_counts_are_those_of_the_files(sltool: Sltool, tree: Path) -> None:
    done = sltool("prepare", "mura", "--source", tree, *SMALL, "--json").ok().json
    for name in ("train", "valid"):
        paths = (tree / f"{name}_image_paths.csv").read_text().splitlines()
        for part in BODY_PARTS:
            mine = [path for path in paths if f"XR_{part.upper()}/" in path]
            row = next(
                counted
                for counted in done["parts"]
                if (counted["list"], counted["part"]) == (name, part)
            )
            assert row == {
                "list": name,
                "part": part,
                "total": len(mine),
                "positive": sum("_positive/" in path for path in mine),
                "negative": sum("_negative/" in path for path in mine),
                "studies": len({path.rsplit("/", 1)[0] for path in mine}),
                "patients": len({path.split("/")[3] for path in mine}),
            }
    assert sum(row["total"] for row in done["parts"] if row["part"] == "all") == 210


def test_body_parts_are_selected_and_a_repeated_command_is_skipped(
    sltool: Sltool, tree: Path
) -> None:
    command = ("prepare", "mura", "--source", tree, "--body-part", "shoulder", "XR_ELBOW", *SMALL)
    done = sltool(*command, "--json").ok().json
    assert {row["part"] for row in done["parts"]} == {"shoulder", "elbow", "all"}
    assert 'body_parts: ["shoulder", "elbow"]' in (sltool.folder / "study.yaml").read_text()
    assert "already prepared" in sltool(*command).ok().out
    assert sltool("prepare", "mura", "--source", tree, "--body-part", "hand").code == 2


def test_all_parts_can_be_named(sltool: Sltool, tree: Path) -> None:
    sltool("prepare", "mura", "--source", tree, "--body-part", "all", *SMALL).ok()
    assert json.dumps(BODY_PARTS) in (sltool.folder / "study.yaml").read_text()
    assert sltool("prepare", "mura", "--source", tree, "--body-part", "all").code == 0


def test_an_unknown_part_is_refused_with_the_known_ones(sltool: Sltool, tree: Path) -> None:
    ran = sltool("prepare", "mura", "--source", tree, "--body-part", "knee", *SMALL)
    assert ran.code == 2
    assert "body_parts" in ran.err
    assert "forearm" in ran.err


def test_a_source_with_one_part_makes_a_study_of_that_part(sltool: Sltool, tree: Path) -> None:
    for part in set(BODY_PARTS) - {"forearm"}:
        for name in ("train", "valid"):
            (tree / name / f"XR_{part.upper()}").rename(tree.parent / f"{part}-{name}")
    done = sltool("prepare", "mura", "--source", tree.parent, *SMALL, "--json").ok().json
    assert {row["part"] for row in done["parts"]} == {"forearm", "all"}
    assert done["refused"] == []
    assert any("only forearm:" in note for note in done["notes"])


def test_every_defect_is_named_and_counted(sltool: Sltool, tree: Path) -> None:
    listed = (tree / "train_image_paths.csv").read_text().splitlines()
    images = [line.removeprefix("MURA-v1.1/") for line in listed]
    missing, truncated, unlabelled = images[3], images[40], images[80]
    (tree / missing).unlink()
    (tree / truncated).write_bytes((tree / truncated).read_bytes()[:400])
    unnamed = Path(images[20]).with_name("image99.png").as_posix()
    (tree / unnamed).write_bytes((tree / images[20]).read_bytes())
    (tree / images[20]).with_name("._image1.png").write_bytes(b"a Mac's own file")
    labels = tree / "train_labeled_studies.csv"
    study = str(Path(unlabelled).parent)
    lines = [line for line in labels.read_text().splitlines() if f"{study}/" not in line]
    flipped = str(Path(images[10]).parent)
    lines = [
        line[:-1] + str(1 - int(line[-1])) if f"{flipped}/" in line else line for line in lines
    ]
    labels.write_text("\n".join([*lines, "MURA-v1.1/train/XR_HAND/patient99999/study1/,yes"]))
    with (tree / "train_image_paths.csv").open("a") as file:
        file.write(f"{listed[0]}\nnot a path\n")

    done = sltool("prepare", "mura", "--source", tree, *SMALL, "--json").ok().json

    reasons = {refused["record"]: refused["reason"] for refused in done["refused"]}
    assert "no such file" in reasons.pop(missing)
    assert "does not name this file" in reasons.pop(unnamed)
    assert "truncated" in reasons.pop(truncated)
    assert "not 0 or 1" in reasons.pop(f"train_labeled_studies.csv line {len(lines) + 1}")
    unknown_path = reasons.pop(f"train_image_paths.csv line {len(listed) + 2}")
    assert "not a path of MURA's tree" in unknown_path
    assert {Path(record).parent for record in reasons} == {Path(study)}
    assert all("lacks its examination" in reason for reason in reasons.values())
    assert done["samples"] == 210 - 2 - len(reasons)
    notes = "\n".join(done["notes"])
    assert "names 1 file that is missing" in notes
    assert "does not name 1 of the files" in notes
    assert "used once" in notes
    assert f"labels {flipped}" in notes
    assert "more than one part of the body" in notes
    assert len(rows(sltool.folder / "refused.csv")) == len(done["refused"])


def test_a_patient_is_one_group_in_one_split_across_body_parts(sltool: Sltool, tree: Path) -> None:
    sltool("prepare", "mura", "--source", tree, *SMALL).ok()
    sltool("partition").ok()
    places, parts, pseudonyms = defaultdict(set), defaultdict(set), defaultdict(set)
    for site in "ABC":
        for row in rows(sltool.folder / "sites" / site / "pseudonyms.csv"):
            places[row["patient"]].add((site, row["split"]))
            parts[row["patient"]].add(row["examination"].split("/")[0])
            pseudonyms[row["patient"]].add(row["group"].split("/")[0])
    assert max(map(len, parts.values())) == 2
    assert set(map(len, places.values())) == {1}
    assert set(map(len, pseudonyms.values())) == {1}


def test_the_official_lists_are_used_and_a_patient_in_both_is_in_one_split(
    sltool: Sltool, tree: Path
) -> None:
    twice = "patient11185"
    folder = tree / "train" / "XR_WRIST" / twice / "study1_negative"
    folder.mkdir(parents=True)
    Image.new("L", (40, 50)).save(folder / "image1.png")
    path = f"MURA-v1.1/train/XR_WRIST/{twice}/study1_negative"
    with (tree / "train_image_paths.csv").open("a") as file:
        file.write(f"{path}/image1.png\n")
    with (tree / "train_labeled_studies.csv").open("a") as file:
        file.write(f"{path}/,0\n")
    done = sltool(
        "prepare", "mura", "--source", tree, *SMALL, "--set", "split.official=true", "--json"
    ).ok()
    assert any("both lists: patient11185" in note for note in done.json["notes"])
    counts = sltool("partition", "--ratios", "1", "--json").ok().json["sites"]["A"]
    valid = len((tree / "valid_image_paths.csv").read_text().splitlines())
    assert counts["test"] == valid + 1
    assert counts["validation"] > 0
    for row in rows(sltool.folder / "sites" / "A" / "pseudonyms.csv"):
        in_valid = row["record"].startswith("valid/") or row["patient"] == twice
        assert (row["split"] == "test") == in_valid


def test_padding_keeps_the_aspect_ratio(sltool: Sltool, tree: Path) -> None:
    import h5py

    listed = (tree / "train_image_paths.csv").read_text().splitlines()
    first = tree / listed[0].removeprefix("MURA-v1.1/")
    Image.new("L", (200, 100), 200).save(first)
    sltool("prepare", "mura", "--source", tree, *SMALL).ok()
    with h5py.File(sltool.folder / "prepared.h5") as file:
        picture = file["inputs"][0, 0]
    assert picture.shape == (32, 32)
    assert (picture[:8] == 0).all()
    assert (picture[-8:] == 0).all()
    assert (picture[9:-9] == 200).all()


def test_images_examinations_and_patients_are_scored_separately(sltool: Sltool) -> None:
    run_to_figures(sltool, "mura", "--synthetic", 280, *SMALL, ratios="1")
    found = {
        level: sltool(
            "evaluate", "--level", level, "--metrics", "accuracy", "kappa", "auroc", "--json"
        )
        .ok()
        .json
        for level in ("study", "patient", "image")
    }
    predicted = rows(sltool.folder / "server" / "runs" / "default" / "predictions.csv")
    assert found["image"]["samples"] == len(predicted)
    groups = {
        "image": lambda row: row["pseudonym"],
        "study": lambda row: row["group"],
        "patient": lambda row: row["group"].split("/")[0],
    }
    for level, key in groups.items():
        members = defaultdict(list)
        for row in predicted:
            members[key(row)].append((float(row["y_true"]), float(row["y_pred"])))
        y_true = [max(label for label, _ in images) for images in members.values()]
        y_pred = [np.mean([score for _, score in images]) for images in members.values()]
        numbers = [score >= 0.5 for score in y_pred]
        assert found[level]["samples"] == len(members)
        assert found[level]["metrics"] == pytest.approx(
            {
                "accuracy": accuracy_score(y_true, numbers),
                "kappa": cohen_kappa_score(y_true, numbers),
                "auroc": roc_auc_score(y_true, y_pred),
            }
        )
    assert found["patient"]["samples"] < found["study"]["samples"] < found["image"]["samples"]
    run = sltool.folder / "server" / "runs" / "default"
    for level, name in (("image", ""), ("study", "-test-study"), ("patient", "-test-patient")):
        (saved,) = json.loads((run / f"metrics{name}.json").read_text()).values()
        assert saved["samples"] == found[level]["samples"]
    compared = sltool("compare", "--level", "study", "--json").ok().json
    assert compared["runs"][0]["metrics"].items() >= found["study"]["metrics"].items()
