"""Predictions that come back: from new cases at a hospital to its table of patients."""

from __future__ import annotations

import csv
import json
import shutil
import stat
from pathlib import Path

import h5py
import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from sltool.shard.keys import SigningKey
from tests.conftest import Ran, Sltool, call_main
from tests.images import two_classes

COLUMNS = ["age", "sex", "height_cm", "weight_kg", "TC", "HDL", "TG"]
SETTINGS = ("--set", "training.epochs=3", "model.widths=[8, 16]", "dataset.patient=id")
CASES = 40


@pytest.fixture(scope="session")
def hospitals(tmp_path_factory: pytest.TempPathFactory, data_folder: Path) -> Path:
    """A trained study in `server`, and site B's folder in `B` with a table of new patients."""
    root = tmp_path_factory.mktemp("predictions")
    with (data_folder / "cholesterol" / "korea_checkup_20000.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    write(root / "old.csv", rows[:200], [*COLUMNS, "LDL"])
    write(root / "new.csv", rows[300 : 300 + CASES], COLUMNS)
    server = root / "server"
    server.mkdir()
    for stage in (
        ["prepare", "cholesterol", "--source", root / "old.csv", "--seed", 0, *SETTINGS],
        ["partition", "--ratios", "1:1"],
        ["client-encode"],
        ["ship"],
        ["server-train"],
        ["server-keys"],
    ):
        assert call_main(server, *stage, "--quiet") == 0
    study = server / "study.yaml"
    key = SigningKey.load(server / "server" / "key").public
    study.write_text(study.read_text().replace("  key: null", f'  key: "{key}"'))
    hospital = root / "B"
    (hospital / "sites").mkdir(parents=True)
    for name in ("study.yaml", "privacy-layer.safetensors", "sites/B"):
        target, source = hospital / name, server / name
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    return root


def write(path: Path, rows: list[dict[str, str]], columns: list[str]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", *columns], extrasaction="ignore")
        writer.writeheader()
        writer.writerows({"id": f"P{index}", **row} for index, row in enumerate(rows))


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


class Two:
    """The hospital and the server: two folders that share nothing."""

    def __init__(self, root: Path, sltool: Sltool) -> None:
        self.root, self._sltool = root, sltool

    @property
    def new(self) -> Path:
        return self.root / "new.csv"

    def at(self, folder: str, *words: object) -> Ran:
        self._sltool.folder = self.root / folder
        return self._sltool(*words)

    def encode(self, *words: object) -> Ran:
        stage = ("client-encode", "--site", "B", "--for", "prediction", "--source", self.new)
        return self.at("B", *stage, *words)

    def ship(self) -> Ran:
        inbox = self.root / "server" / "server" / "inbox"
        return self.at("B", "ship", "--site", "B", "--to", inbox, "--json")

    def answer(self, *words: object) -> Path:
        """From the new cases to the server's file."""
        self.encode().ok()
        self.ship().ok()
        (answer,) = self.at("server", "predict", "--json", *words).ok().json["answers"]
        return self.file(answer)

    def file(self, answer: dict[str, str]) -> Path:
        return self.root / "server" / answer["file"]

    def resolve(self, file: Path, *words: object) -> Ran:
        return self.at("B", "resolve", "--site", "B", file, *words)


@pytest.fixture
def two(hospitals: Path, tmp_path: Path, sltool: Sltool) -> Two:
    shutil.copytree(hospitals, tmp_path / "two")
    return Two(tmp_path / "two", sltool)


def test_predictions_come_back_to_the_patients(two: Two) -> None:
    encoded = two.encode("--json").ok().json
    assert encoded["samples"] == CASES
    assert (two.root / "B/outbox/B/B-prediction-00000.h5").is_file()
    two.ship().ok()
    found = two.at("server", "predict", "--json").ok()
    (answer,) = found.json["answers"]
    assert answer["trained_on"] == {"A": 80, "B": 80}
    assert "validation_loss" in answer["validation"]
    done = two.resolve(two.file(answer), "--json").ok().json
    assert done["cases"] == CASES
    assert done["model"] == answer["model"]
    table = two.root / "B" / done["file"]
    assert stat.S_IMODE(table.stat().st_mode) == 0o600
    rows = read(table)
    assert sorted(row["patient"] for row in rows) == sorted(f"P{n}" for n in range(CASES))
    truth = {row["id"]: row for row in read(two.new)}
    for row in rows[:5]:
        expected = predicted_by_hand(two, truth[row["patient"]])
        assert float(row["prediction (mg/dL)"]) == pytest.approx(expected, abs=0.5)
    shown = two.resolve(two.file(answer)).ok().out
    assert "trained on 160 samples of 2 sites (A B); validation loss" in shown


def predicted_by_hand(two: Two, row: dict[str, str]) -> float:
    """Both halves in NumPy."""
    import yaml

    study = yaml.safe_load((two.root / "B" / "study.yaml").read_text())
    samples = study["samples"]
    x = np.array([float(row[name]) for name in COLUMNS])
    x = (x - np.array(samples["mean"])) / np.array(samples["sd"])
    first = load_file(two.root / "B" / "privacy-layer.safetensors")
    rest = load_file(two.root / "server/server/runs/default/model.safetensors")
    for weights in (first, rest):
        names = sorted({name.rsplit(".", 1)[0] for name in weights})
        for name in names:
            x = weights[f"{name}.weight"].numpy() @ x + weights[f"{name}.bias"].numpy()
            if weights is first or name != names[-1]:
                x = np.where(x > 0, x, 0.01 * x)
    return float(x[0] * samples["labels"]["sd"] + samples["labels"]["mean"])


def test_cases_enter_neither_training_nor_evaluation(two: Two) -> None:
    before = two.at("server", "server-train", "--run", "x", "--json").ok().json["samples"]
    figures = two.at("server", "evaluate", "--run", "x", "--json").ok().json
    two.answer()
    after = two.at("server", "server-train", "--run", "y", "--json").ok().json["samples"]
    assert after == before
    assert two.at("server", "evaluate", "--run", "x", "--json").ok().json == figures
    record = json.loads((two.root / "server/server/runs/y/run.json").read_text())
    assert not any("prediction" in shard["shard"] for shard in record["shards"])
    from sltool import Study
    from sltool.errors import UnknownNameError

    with pytest.raises(UnknownNameError):
        Study(two.root / "server").run("x").evaluate(split="prediction")


def test_a_shard_of_cases_holds_no_label_and_fresh_pseudonyms(two: Two) -> None:
    two.encode().ok()
    with h5py.File(two.root / "B/outbox/B/B-prediction-00000.h5") as shard:
        assert not shard["labels"][:].any()
        pseudonyms = {name.decode() for name in shard["pseudonyms"][:]}
    known = {row["pseudonym"] for row in read(two.root / "B/sites/B/pseudonyms.csv")}
    assert not pseudonyms & known
    table = read(two.root / "B/sites/B/prediction/pseudonyms.csv")
    assert {row["pseudonym"] for row in table} == pseudonyms
    order = [int(row["patient"][1:]) for row in table]
    assert order != sorted(order), "the order of admission does not show"
    assert not (two.root / "B/sites/B/prediction/cases.h5").exists()


def test_only_new_cases_are_encoded_and_answered(two: Two) -> None:
    two.answer()
    assert "encoded before" in two.encode().ok().out
    rows = read(two.new)
    more = [*rows, *({**row, "id": f"Q{n}", "age": "99"} for n, row in enumerate(rows[:5]))]
    with two.new.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(more[::-1])
    assert two.encode("--json").ok().json["samples"] == 5
    assert two.ship().ok().json["sent"] == 1
    (answer,) = two.at("server", "predict", "--json").ok().json["answers"]
    assert answer["cases"] == 5
    again = two.at("server", "predict")
    assert "no case waits" in again.ok().err
    (every,) = two.at("server", "predict", "--force", "--json").ok().json["answers"]
    assert every["cases"] == CASES + 5
    table = Path(two.resolve(two.file(every), "--out", "t.csv", "--json").ok().json["file"])
    assert len(read(two.root / "B" / table)) == CASES + 5


def test_a_patient_who_withdraws_is_not_predicted(two: Two) -> None:
    two.encode().ok()
    two.at("B", "withdraw", "--site", "B", "--patient", "P3").ok()
    two.encode().ok()
    rows = read(two.root / "B/sites/B/prediction/pseudonyms.csv")
    assert len(rows) == CASES - 1
    two.ship().ok()
    two.at("B", "withdraw", "--site", "B", "--patient", "P4").ok()
    two.ship().ok()
    (answer,) = two.at("server", "predict", "--json").ok().json["answers"]
    assert answer["cases"] == CASES - 2


def test_what_the_server_did_not_sign_is_refused(two: Two) -> None:
    file = two.answer()
    good = file.read_bytes()
    for place in (30, len(good) // 2, -4):
        changed = bytearray(good)
        changed[place] ^= 1
        file.write_bytes(changed)
        ran = two.resolve(file)
        assert ran.code in (4, 5)
        assert "Traceback" not in ran.err
    file.write_bytes(good)
    other = SigningKey.load_or_create(two.root / "other").public
    assert two.resolve(file, "--server-key", other).code == 5
    study = two.root / "B" / "study.yaml"
    key = SigningKey.load(two.root / "server/server/key").public
    study.write_text(study.read_text().replace(f'key: "{key}"', "key: null"))
    ran = two.resolve(file)
    assert ran.code == 2
    assert "--server-key" in ran.err
    two.resolve(file, "--server-key", key).ok()
    two.at("server", "resolve", "--site", "A", file)
    assert two.at("server", "resolve", "--site", "A", file).code == 6


def test_another_encoding_is_refused_and_the_key_named(two: Two) -> None:
    file = two.answer()
    study = two.root / "B" / "study.yaml"
    text = study.read_text()
    study.write_text(text.replace("noise: 0.0", "noise: 0.5"))
    ran = two.resolve(file)
    assert ran.code == 6
    assert "encoding.noise is 0.5 here, and 0.0 there" in ran.err
    layer = two.root / "B" / "privacy-layer.safetensors"
    study.write_text(text)
    weights = load_file(layer)
    weights["0.0.bias"] += 1
    save_file(weights, layer)
    ran = two.resolve(file)
    assert "privacy-layer.safetensors is" in ran.err
    two.encode("--force").ok()
    inbox = two.root / "server/server/inbox"
    ran = two.at("B", "ship", "--site", "B", "--to", inbox)
    taken = two.at("server", "queue", "take")
    assert taken.code == 4
    server = two.root / "server" / "study.yaml"
    server.write_text(server.read_text().replace("noise: 0.0", "noise: 0.5"))
    shutil.rmtree(two.root / "server/server/accepted")
    ran = two.at("server", "predict")
    assert ran.code == 6
    assert "encoding.noise is 0.5, and was 0.0" in ran.err


def test_an_answer_is_encrypted_for_the_site(two: Two) -> None:
    pytest.importorskip("pyrage", reason="encryption is optional")
    recipient = two.at("B", "enroll", "--site", "B", "--encrypt", "--json").ok().json["recipient"]
    study = two.root / "server" / "study.yaml"
    head, tail = study.read_text().split("  B:\n")
    study.write_text(f"{head}  B:\n    recipient: {recipient}\n{tail}")
    file = two.answer()
    assert file.name.endswith(".predictions.age")
    assert list(file.parent.iterdir()) == [file]
    done = two.resolve(file, "--json").ok().json
    assert done["cases"] == CASES
    assert not (two.root / "B/sites/B/prediction/answer").exists()


def test_both_halves_in_one_place(two: Two) -> None:
    done = two.at("server", "predict", "--site", "B", "--source", two.new, "--json").ok().json
    rows = read(two.root / "server" / done["file"])
    assert sorted(row["patient"] for row in rows) == sorted(f"P{n}" for n in range(CASES))
    ran = two.at("server", "predict", "--site", "B", "--source", two.new)
    assert ran.code == 2
    assert "answered all these cases before" in ran.err
    assert two.at("server", "predict", "--site", "B").code == 2


def test_images_without_class_folders_and_decisions(sltool: Sltool, tmp_path: Path) -> None:
    source = two_classes(tmp_path / "ct", 40, ("non-COVID", "COVID"), side=10)
    settings = ("dataset.size=8", "model.filters=[1, 4]", "training.epochs=2")
    sltool("prepare", "covid-ct", "--source", source, "--seed", 0, "--set", *settings).ok()
    for stage in ("partition", "client-encode", "ship", "server-train", "evaluate"):
        sltool(stage).ok()
    new = tmp_path / "new"
    new.mkdir()
    for index, path in enumerate(sorted(source.glob("*/*.png"))[:6]):
        shutil.copy(path, new / f"scan {index}.png")
    run = sltool.folder / "server" / "runs" / "default"
    sltool("evaluate", "--at", "sensitivity=0.95").ok()
    (chosen,) = json.loads((run / "operating-points.json").read_text())["points"]
    # Thresholds for patients or for some sites are not those of a case.
    sltool("evaluate", "--at", "sensitivity=0.5", "--sites", "A").ok()
    done = sltool("predict", "--site", "A", "--source", new, "--json").ok().json
    assert done["operating_points"] == ["sensitivity=0.95"]
    rows = read(sltool.folder / done["file"])
    assert sorted(row["record"] for row in rows) == [f"scan {n}.png" for n in range(6)]
    for row in rows:
        positive = float(row["probability of COVID"])
        assert positive + float(row["probability of non-COVID"]) == pytest.approx(1)
        decision = "COVID" if positive >= chosen["threshold"] else "not COVID"
        assert row["decision at sensitivity=0.95"] == decision
    # Of another model these are not the thresholds.
    sltool("server-train", "--force", "--seed", 1).ok()
    again = sltool("predict", "--site", "A", "--source", new, "--json").ok().json
    assert again["model"] != done["model"]
    assert again["operating_points"] == []


def test_a_hospital_that_only_asks(two: Two) -> None:
    """It has a key and no training data."""
    hospital = two.root / "C"
    hospital.mkdir()
    for name in ("study.yaml", "privacy-layer.safetensors"):
        shutil.copy(two.root / "server" / name, hospital)
    line = two.at("C", "enroll", "--site", "C", "--json").ok().json
    study = two.root / "server" / "study.yaml"
    study.write_text(study.read_text() + f'  C:\n    key: "{line["key"]}"\n')
    words = ("--site", "C", "--for", "prediction", "--source", two.new)
    two.at("C", "client-encode", *words).ok()
    two.at("C", "ship", "--site", "C", "--to", two.root / "server/server/inbox").ok()
    (answer,) = two.at("server", "predict", "--json").ok().json["answers"]
    two.at("C", "resolve", "--site", "C", two.file(answer)).ok()


def test_cases_accepted_by_a_command_that_was_stopped_are_answered(
    hospitals: Path, sltool: Sltool, tmp_path: Path
) -> None:
    """The server was stopped between accepting a shard and adding its rows to the store."""
    shutil.copytree(hospitals, tmp_path, dirs_exist_ok=True)
    sltool.folder = tmp_path / "server"
    sltool("client-encode", "--for", "prediction", "--source", tmp_path / "new.csv", "--site", "B")
    sltool("ship", "--site", "B").ok()
    index = sltool.folder / "server" / "store" / "index.json"
    before = index.read_bytes()
    sltool("queue", "take").ok()
    index.write_bytes(before)
    assert "`sltool queue take` adds them" in sltool("evaluate").ok().err
    (answer,) = sltool("predict", "--json").ok().json["answers"]
    assert answer["cases"] == CASES
    assert "queue take" not in sltool("evaluate").ok().err
