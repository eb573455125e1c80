"""`encoding.label_epsilon`: what leaves the hospital in place of labels, and what becomes of it."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.conftest import Sltool
from tests.images import two_classes

EPSILON = 1.0
SMALL = ("dataset.size=32", "training.epochs=2", f"encoding.label_epsilon={EPSILON}")


@pytest.fixture(scope="module")
def slices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_classes(tmp_path_factory.mktemp("slices"), 300, ("non-COVID", "COVID"), side=32)


@pytest.fixture
def study(sltool: Sltool, slices: Path) -> Sltool:
    sltool("prepare", "covid-ct", "--source", slices, "--set", *SMALL).ok()
    sltool("partition", "--site", "B").ok()
    sltool("client-encode").ok()
    return sltool


def true_labels(sltool: Sltool) -> dict[str, int]:
    with h5py.File(sltool.folder / "sites" / "B" / "private.h5") as file:
        return dict(zip(file["pseudonyms"].asstr()[:], file["labels"][:].tolist(), strict=True))


def shipped_labels(sltool: Sltool) -> dict[str, int]:
    labels: dict[str, int] = {}
    for path in (sltool.folder / "outbox" / "B").glob("*.h5"):
        with h5py.File(path) as file:
            names = (name.decode() for name in file["pseudonyms"][:])
            labels |= dict(zip(names, file["labels"][:].tolist(), strict=True))
    return labels


def records(sltool: Sltool) -> dict[str, str]:
    with (sltool.folder / "sites" / "B" / "pseudonyms.csv").open(newline="") as file:
        return {row["pseudonym"]: row["record"] for row in csv.DictReader(file)}


def test_labels_of_every_split_are_responses(study: Sltool) -> None:
    truth, shipped = true_labels(study), shipped_labels(study)
    assert truth.keys() == shipped.keys()
    wrong = np.mean([truth[name] != shipped[name] for name in truth])
    expected = 1 / (1 + math.exp(EPSILON))
    assert wrong == pytest.approx(expected, abs=5 * math.sqrt(0.25 / len(truth)))
    for split in ("train", "validation", "test"):
        with h5py.File(study.folder / "outbox" / "B" / f"B-{split}-00000.h5") as file:
            names = [name.decode() for name in file["pseudonyms"][:]]
        assert any(truth[name] != shipped[name] for name in names), split


@pytest.mark.slow
def test_a_response_is_drawn_once(study: Sltool) -> None:
    first = {records(study)[name]: label for name, label in shipped_labels(study).items()}
    study("client-encode", "--force").ok()
    study("partition", "--site", "B", "--force").ok()
    study("client-encode").ok()
    second = {records(study)[name]: label for name, label in shipped_labels(study).items()}
    assert second == first
    # Another epsilon is another response.
    path = study.folder / "study.yaml"
    path.write_text(path.read_text().replace("label_epsilon: 1.0", "label_epsilon: 1.5"))
    study("client-encode").ok()
    assert {records(study)[n]: label for n, label in shipped_labels(study).items()} != first


def test_responses_follow_from_no_seed(study: Sltool) -> None:
    """Without the table of responses, a copy of all files gives other responses."""
    first = shipped_labels(study)
    table = study.folder / "sites" / "B" / "responses.csv"
    assert table.stat().st_mode & 0o077 == 0
    table.unlink()
    study("client-encode", "--force").ok()
    assert shipped_labels(study) != first


def test_the_digest_covers_the_epsilon(study: Sltool) -> None:
    path = study.folder / "study.yaml"
    study("ship").ok()
    path.write_text(path.read_text().replace("label_epsilon: 1.0", "label_epsilon: 2.0"))
    refused = study("queue", "take")
    assert refused.code == 4
    assert "encoding" in refused.err


def test_a_damaged_table_of_responses_is_named(study: Sltool) -> None:
    table = study.folder / "sites" / "B" / "responses.csv"
    table.write_text(table.read_text().replace(",1.0,1\n", ",1.0,7\n", 1))
    ran = study("client-encode", "--force")
    assert ran.code == 3
    assert "responses.csv" in ran.err


@pytest.mark.slow
def test_training_and_evaluation_know_of_the_responses(study: Sltool) -> None:
    """The upper half of one class is bright: easily learned, and right on the true labels."""
    path = study.folder / "study.yaml"
    path.write_text(path.read_text().replace("epochs: 2", "epochs: 12"))
    study("ship").ok()
    study("server-train").ok()
    ran = study("evaluate", "--metrics", "accuracy", "auroc", "--json").ok()
    assert "randomised responses (epsilon 1: 26.9% are wrong)" in ran.err
    corrected = ran.json["corrected"]
    assert ran.json["metrics"]["accuracy"] < 0.9
    assert corrected["accuracy"] > ran.json["metrics"]["accuracy"]
    truth = true_labels(study)
    predictions = study.folder / "server" / "runs" / "default" / "predictions.csv"
    with predictions.open(newline="") as file:
        rows = list(csv.DictReader(file))
    right = [(float(row["y_pred"]) >= 0.5) == truth[row["pseudonym"]] for row in rows]
    assert np.mean(right) > 0.9
    # The network predicts the true classes, not the shares of the answers, 0.23 from 0.5. The
    # responses differ in each run, and with them how certain it is.
    distances = [abs(float(row["y_pred"]) - 0.5) for row in rows]
    assert np.mean(distances) > 0.26


def test_regression_labels_are_refused_with_the_reason(sltool: Sltool) -> None:
    ran = sltool("prepare", "cholesterol", "--set", "encoding.label_epsilon=1")
    assert ran.code == 2
    assert "label_epsilon is for classes" in ran.err


def test_an_encoding_without_it_has_the_digest_of_earlier_versions(sltool: Sltool) -> None:
    sltool("prepare", "cholesterol", "--seed", 0).ok()
    sltool("partition").ok()
    sltool("client-encode", "--site", "B").ok()
    path = sltool.folder / "study.yaml"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if "label_epsilon" not in line))
    assert sltool("client-encode", "--site", "B", "--json").ok().json["already_encoded"]
    from sltool.study.schema import Encoding

    assert "label_epsilon" not in Encoding().model_dump(mode="json")


def test_the_audit_attacks_with_the_labels_that_were_shipped(study: Sltool) -> None:
    from sltool.site.audit.attacker import Budget
    from sltool.site.audit.evidence import gather
    from sltool.study.layout import StudyFolder
    from sltool.study.study_file import load_study

    folder = StudyFolder(study.folder)
    budget = Budget("quick", 200, 40, steps=8, descent=8, optimised=4, rows=1000)
    evidence = gather(folder, load_study(folder), folder.site("B"), budget)
    wrong = (evidence.pairs.labels != evidence.shipped_labels).mean()
    assert wrong == pytest.approx(1 / (1 + math.exp(EPSILON)), abs=0.12)
