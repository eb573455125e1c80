"""A study as it goes on: new patients every month, one who withdraws, one site that leaves."""

from __future__ import annotations

import csv
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import pytest

from sltool.study.schema import Site
from sltool.study.study_file import add_sites
from tests.conftest import Sltool

Row = dict[str, str]
PATIENTS = 60


@dataclass
class Hospital:
    """One site in a folder of its own, with a table of patients that grows."""

    sltool: Sltool
    name: str
    folder: Path
    rows: list[Row]

    def __call__(self, *words: object) -> object:
        self.sltool.folder = self.folder
        return self.sltool(*words, "--json").ok()

    def month(self, rows: list[Row], inbox: Path) -> dict[str, dict]:
        """Add rows and run the stages; the result of each."""
        self.rows += rows
        return self.stages(inbox)

    def stages(self, inbox: Path, *names: str) -> dict[str, dict]:
        """Sort the table anew and run the stages, or those named."""
        random.Random(len(self.rows)).shuffle(self.rows)
        table = self.folder.parent / f"{self.name}.csv"
        with table.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.rows[0])
            writer.writeheader()
            writer.writerows(self.rows)
        stages = {
            "prepare": ("--source", table),
            "partition": ("--site", self.name),
            "client-encode": ("--site", self.name),
            "ship": ("--site", self.name, "--to", inbox),
        }
        return {
            stage: self(stage, *words).json
            for stage, words in stages.items()
            if not names or stage in names
        }

    def people(self) -> dict[str, Row]:
        with (self.folder / "sites" / self.name / "pseudonyms.csv").open(newline="") as file:
            return {row["pseudonym"]: row for row in csv.DictReader(file)}

    def shipped(self) -> dict[str, list[str]]:
        """Shard -> its pseudonyms."""
        found = {}
        for path in sorted((self.folder / "outbox" / self.name).glob("*.h5")):
            with h5py.File(path) as shard:
                found[path.name] = [name.decode() for name in shard["pseudonyms"][:]]
        return found


@dataclass
class World:
    sltool: Sltool
    server: Path
    hospitals: dict[str, Hospital]
    new_rows: Callable[[str, int], list[Row]]

    @property
    def inbox(self) -> Path:
        return self.server / "server" / "inbox"

    def at_server(self, *words: object) -> dict:
        self.sltool.folder = self.server
        return self.sltool(*words, "--json").ok().json


@pytest.fixture
def world(tmp_path: Path, sltool: Sltool, data: Callable[[str], Path]) -> World:
    server = tmp_path / "server"
    server.mkdir()
    sltool.folder = server
    settings = (
        "dataset.patient=id",
        "dataset.columns=[age, sex, height, weight, TC, HDL, TG]",
        "dataset.headers={height: height_cm, weight: weight_kg}",
        "training.epochs=3",
        "model.widths=[8, 16]",
    )
    sltool("study", "new", "cholesterol", "--seed", 0, *(f"--set={key}" for key in settings)).ok()
    with data("cholesterol/korea_checkup_20000.csv").open(newline="") as file:
        patients = iter(list(csv.DictReader(file)))

    def new_rows(site: str, first: int, count: int = PATIENTS) -> list[Row]:
        return [{"id": f"{site}{first + index}", **next(patients)} for index in range(count)]

    hospitals = {}
    for name in "ABC":
        folder = tmp_path / name
        folder.mkdir()
        for file in ("study.yaml", "privacy-layer.safetensors"):
            shutil.copy(server / file, folder)
        sltool.folder = folder
        key = sltool("enroll", "--site", name, "--json").ok().json["key"]
        add_sites(server / "study.yaml", {name: Site(key=key)})
        hospitals[name] = Hospital(sltool, name, folder, [])
    return World(sltool, server, hospitals, new_rows)


@pytest.mark.slow
def test_three_months_at_three_sites(world: World) -> None:
    for hospital in world.hospitals.values():
        first = hospital.month(world.new_rows(hospital.name, 0), world.inbox)
        assert first["client-encode"]["new_samples"] == PATIENTS
    assert world.at_server("server-train")["accepted"] == 9
    assert world.at_server("server-train")["samples"] == 3 * 48

    before = {name: hospital.people() for name, hospital in world.hospitals.items()}
    sent = {name: hospital.shipped() for name, hospital in world.hospitals.items()}
    for name, hospital in world.hospitals.items():
        # 20 of the patients have a second examination, and 60 are new.
        again = world.new_rows(name, 0, 20)
        second = hospital.month([*again, *world.new_rows(name, PATIENTS)], world.inbox)
        assert sum(second["partition"]["new"].values()) == 80
        assert second["client-encode"]["new_samples"] == 80
        assert second["ship"]["sent"] == second["client-encode"]["new_shards"] <= 3
        now = hospital.people()
        for pseudonym, row in before[name].items():
            kept = {key: now[pseudonym][key] for key in ("group", "split", "patient")}
            assert kept == {key: row[key] for key in kept}
        places: dict[str, set[tuple[str, str]]] = {}
        for row in now.values():
            places.setdefault(row["patient"], set()).add((row["group"], row["split"]))
        assert all(len(place) == 1 for place in places.values()), "a patient has one place"
        assert len({place.copy().pop()[0] for place in places.values()}) == 2 * PATIENTS
        shards = hospital.shipped()
        assert {shard: shards[shard] for shard in sent[name]} == sent[name]
        everyone = [pseudonym for pseudonyms in shards.values() for pseudonym in pseudonyms]
        assert sorted(everyone) == sorted(now), "each sample once"
    taken = world.at_server("queue", "take")
    assert taken["rejected"] == taken["held"] == []
    assert world.at_server("server-train", "--run", "second")["samples"] > 3 * 48

    leaving, b = world.hospitals["C"], world.hospitals["B"]
    patient = next(row["patient"] for row in b.people().values() if row["split"] == "train")
    b("withdraw", "--site", "B", "--patient", patient)
    third = b.month(world.new_rows("B", 2 * PATIENTS), world.inbox)
    gone = [row for row in b.people().values() if row["patient"] == patient]
    assert third["client-encode"]["new_samples"] == PATIENTS
    assert third["ship"]["sent"] == third["client-encode"]["new_shards"] + 1
    study = world.server / "study.yaml"
    study.write_text(study.read_text() + "    left: 2020-01-01\n")
    leaving.month(world.new_rows("C", 500, 5), world.inbox)
    ran = world.sltool
    ran.folder = world.server
    last = ran("server-train", "--run", "third", "--json").ok()
    assert "site C left the study: its shards are not used" in last.err
    assert last.json["sites"] == ["A", "B"]
    assert "site C left the study on 2020-01-01 (see server/rejected)" in last.err
    training = sum(row["split"] == "train" for row in b.people().values()) - len(gone)
    training += sum(row["split"] == "train" for row in world.hospitals["A"].people().values())
    assert last.json["samples"] == training
    figures = world.at_server("evaluate", "--run", "second", "--by", "site")
    assert set(figures["by_site"]) == {"A", "B"}
    assert ran("server-train", "--run", "x", "--sites", "C").code == 2
    assert ran("evaluate", "--run", "second", "--sites", "C").code == 2


def test_the_shares_of_new_patients_are_the_studys(world: World) -> None:
    hospital = world.hospitals["A"]
    for month in range(5):
        hospital.month(world.new_rows("A", 10 * month, 10), world.inbox)
    splits = [row["split"] for row in hospital.people().values()]
    for split, wanted in (("train", 40), ("validation", 5), ("test", 5)):
        assert abs(splits.count(split) - wanted) <= 1


def test_what_is_not_shipped_yet_is_encoded_without_who_withdrew(world: World) -> None:
    hospital = world.hospitals["A"]
    hospital.month(world.new_rows("A", 0), world.inbox)
    first = hospital.shipped()
    hospital.rows += world.new_rows("A", PATIENTS)
    hospital.stages(world.inbox, "prepare", "partition", "client-encode")
    gone = {name for name, row in hospital.people().items() if row["patient"] == "A70"}
    assert any(gone & {*pseudonyms} for pseudonyms in hospital.shipped().values())
    hospital("withdraw", "--site", "A", "--patient", "A70")
    assert hospital("ship", "--site", "A", "--to", world.inbox).json["sent"] == 1
    hospital("client-encode", "--site", "A")
    shards = hospital.shipped()
    assert first.items() <= shards.items()
    assert not any(gone & {*pseudonyms} for pseudonyms in shards.values())
    hospital("ship", "--site", "A", "--to", world.inbox)
    taken = world.at_server("queue", "take")
    assert not taken["rejected"]
    assert len(taken["accepted"]) == len(shards)


def test_a_changed_row_is_named_and_stays_as_it_was(world: World) -> None:
    hospital = world.hospitals["A"]
    hospital.month(world.new_rows("A", 0), world.inbox)
    first = hospital.shipped()
    hospital.rows[7]["TC"] = "250"
    hospital.stages(world.inbox, "prepare")
    ran = hospital("partition", "--site", "A")
    assert ran.json["new"] == {"train": 0, "validation": 0, "test": 0}
    # The table is sorted anew, so that the changed row is recognised by its patient only.
    assert "1 sample is other than when the site was made" in ran.err
    assert hospital.shipped() == first


def test_another_source_is_refused(world: World) -> None:
    hospital = world.hospitals["A"]
    hospital.month(world.new_rows("A", 0), world.inbox)
    before = (hospital.folder / "sites" / "A" / "private.h5").read_bytes()
    for row in hospital.rows:
        row["age"] = "50"
    hospital.stages(world.inbox, "prepare")
    ran = hospital.sltool("partition", "--site", "A")
    assert ran.code == 3
    assert "a sample that has not changed" in ran.err
    assert "--force" in ran.err
    assert (hospital.folder / "sites" / "A" / "private.h5").read_bytes() == before


def test_a_table_of_new_patients_alone_is_enough(world: World) -> None:
    hospital = world.hospitals["A"]
    hospital.month(world.new_rows("A", 0), world.inbox)
    hospital.rows = []
    done = hospital.month(world.new_rows("A", PATIENTS, 10), world.inbox)
    assert sum(done["partition"]["new"].values()) == 10
    assert len(hospital.people()) == PATIENTS + 10
    # The line of a patient who withdrew is another patient's the next month.
    hospital("withdraw", "--site", "A", "--patient", "A65")
    hospital.rows = []
    done = hospital.month(world.new_rows("A", 2 * PATIENTS, 10), world.inbox)
    assert sum(done["partition"]["new"].values()) == 10


def test_shipped_rows_get_no_second_noise(world: World) -> None:
    for folder in (world.server, *(one.folder for one in world.hospitals.values())):
        study = folder / "study.yaml"
        study.write_text(study.read_text().replace("noise: 0.0", "noise: 1.0"))
    hospital = world.hospitals["A"]
    hospital.month(world.new_rows("A", 0), world.inbox)
    outbox = hospital.folder / "outbox" / "A"
    before = {path.name: path.read_bytes() for path in outbox.iterdir()}
    hospital.stages(world.inbox, "client-encode")
    # The hospital tidies up: what was shipped is not encoded again for that.
    (outbox / "A-train-00000.h5").unlink()
    hospital.rows += world.new_rows("A", PATIENTS)
    hospital.sltool.folder = hospital.folder
    done = hospital.month([], world.inbox)
    after = {path.name: path.read_bytes() for path in outbox.iterdir()}
    del before["A-train-00000.h5"]
    assert before.items() <= after.items()
    assert "A-train-00000.h5" not in after
    assert done["client-encode"]["new_samples"] == PATIENTS
    taken = world.at_server("queue", "take")
    assert taken["rejected"] == []
    assert "A-train-00001.h5" in taken["accepted"]


def test_everything_again_gives_the_same_bytes(world: World) -> None:
    hospital = world.hospitals["A"]
    for month in range(3):
        hospital.month(world.new_rows("A", PATIENTS * month), world.inbox)
    outbox = hospital.folder / "outbox" / "A"
    before = {path.name: path.read_bytes() for path in outbox.iterdir()}
    hospital("client-encode", "--site", "A", "--force")
    assert {path.name: path.read_bytes() for path in outbox.iterdir()} == before
    assert len(before) > 3


def test_only_what_was_never_shipped_goes_on_a_new_disk(world: World, tmp_path: Path) -> None:
    hospital = world.hospitals["A"]
    hospital.month(world.new_rows("A", 0), tmp_path / "disk")
    done = hospital.month(world.new_rows("A", PATIENTS), tmp_path / "disk")
    hospital("ship", "--site", "A", "--to", tmp_path / "empty", "--new")
    assert not (tmp_path / "empty").exists()
    hospital("ship", "--site", "A", "--to", tmp_path / "whole")
    shards = done["client-encode"]["shards"]
    assert len(list((tmp_path / "whole").glob("*.h5"))) == shards
