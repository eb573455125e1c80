"""From a coordinator's folder to a site that has joined: kit, join, add, and a map of columns."""

from __future__ import annotations

import io
import json
import stat
import zipfile
from pathlib import Path

import pytest
import yaml

from sltool.shard.keys import SigningKey, fingerprint, key_id
from sltool.shard.kit import COMMENT_BYTES, MEMBERS, read_kit, write_kit
from sltool.study.layout import StudyFolder
from sltool.study.study_file import load_study
from tests.conftest import Ran, Sltool

COLUMNS = ["age", "sex", "bmi", "bp", "TC", "HDL", "TG", "LDL"]


class Parties:
    """A coordinator, a site B and a server, whose folders share nothing."""

    def __init__(self, root: Path, capfd: pytest.CaptureFixture[str]) -> None:
        for name in ("coordinator", "hospital", "server"):
            (root / name).mkdir()
            setattr(self, name, Sltool(root / name, capfd))
        self.kit = self.coordinator.folder / "study-kit.zip"

    coordinator: Sltool
    hospital: Sltool
    server: Sltool

    def join(self, *options: object) -> Ran:
        return self.hospital("join", self.kit, "--site", "B", *options)

    def replace(self, old: str, new: str) -> None:
        """Edit the coordinator's study.yaml and make the kit again."""
        path = self.coordinator.folder / "study.yaml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        self.coordinator("study", "kit").ok()


@pytest.fixture
def parties(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Parties:
    parties = Parties(tmp_path, capfd)
    parties.coordinator("study", "new", "cholesterol", "--set", "training.epochs=2").ok()
    parties.coordinator("study", "kit").ok()
    return parties


def table(path: Path, columns: list[str] = COLUMNS, rows: int = 60) -> Path:
    """A table of patients with these headers, every value plausible."""
    values = ["1", "27.5", "94", "190", "50", "120"]
    lines = [[str(20 + row), *values, str(100 + row)] for row in range(rows)]
    path.write_text("\n".join([",".join(columns), *map(",".join, lines)]) + "\n")
    return path


def listed(folder: Path) -> dict[str, str]:
    return {name: site.key for name, site in load_study(StudyFolder(folder)).sites.items()}


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_from_a_kit_to_shards_that_the_server_accepts(parties: Parties, tmp_path: Path) -> None:
    study_file = parties.coordinator.folder / "study.yaml"
    study_file.write_text(study_file.read_text() + "# agreed on in May\n")
    made = parties.coordinator("study", "kit", "--json").ok().json
    joined = parties.join("--json").ok().json
    assert joined["coordinator"] == made["coordinator"]
    assert joined["agreement"] == made["agreement"]
    assert joined["columns"] == COLUMNS
    added = parties.coordinator("study", "add", parties.hospital.folder / "B.pub", "--json")
    assert added.ok().json["fingerprint"] == joined["fingerprint"]
    assert listed(parties.coordinator.folder) == {"B": joined["key"]}
    assert "# agreed on in May" in study_file.read_text()

    parties.coordinator("study", "kit").ok()
    parties.server("join", parties.kit).ok()
    inbox = parties.server.folder / "server" / "inbox"
    for stage in (
        ["prepare", "--source", table(tmp_path / "b.csv")],
        ["partition", "--site", "B"],
        ["client-encode"],
        ["ship", "--to", inbox],
    ):
        parties.hospital(*stage).ok()
    assert parties.server("queue", "take", "--json").ok().json["accepted"]


def test_what_is_private_and_what_is_not(parties: Parties) -> None:
    parties.join().ok()
    modes = {
        name: stat.S_IMODE((parties.hospital.folder / name).stat().st_mode)
        for name in names(parties.hospital.folder)
    }
    public = {"study.yaml", "privacy-layer.safetensors", "leaflet.html", "B.pub"}
    assert {name for name, mode in modes.items() if mode == 0o644} == public
    assert {name for name, mode in modes.items() if mode == 0o600} == modes.keys() - public
    key = parties.coordinator.folder / "coordinator" / "key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert key.read_bytes().strip() not in parties.kit.read_bytes()


def test_people_read_what_to_do_and_what_to_compare(parties: Parties) -> None:
    printed = parties.coordinator("study", "kit").ok().out
    joined = parties.join().ok().out
    key = SigningKey.load(parties.coordinator.folder / "coordinator" / "key").public
    assert fingerprint(key) in printed
    assert fingerprint(key) in joined
    assert fingerprint(key).replace(" ", "").startswith(key_id(key))
    assert "send B.pub to the coordinator" in joined
    page = (parties.hospital.folder / "leaflet.html").read_text()
    for text in (
        "pseudonymised personal data",
        "a row of 7 numbers, from the columns age, sex, bmi, bp, TC, HDL, TG",
        "64 values (float32)",
        "a number in mg/dL",
        "no limits",
        fingerprint(key),
    ):
        assert text in page, text


def test_a_kit_is_the_same_bytes_each_time_and_opens_as_an_archive(parties: Parties) -> None:
    before = parties.kit.read_bytes()
    parties.coordinator("study", "kit").ok()
    assert parties.kit.read_bytes() == before
    with zipfile.ZipFile(parties.kit) as archive:
        assert set(archive.namelist()) == set(MEMBERS)
        # By default zipfile states the system that it runs on.
        assert {entry.create_system for entry in archive.infolist()} == {3}
        study = archive.read("study.yaml")
    assert study == (parties.coordinator.folder / "study.yaml").read_bytes()


def test_joining_again_changes_nothing(parties: Parties) -> None:
    parties.join().ok()
    before = {
        name: (parties.hospital.folder / name).read_bytes() for name in ("B.pub", "study.yaml")
    }
    again = parties.join("--json").ok().json
    assert again["again"] is True
    assert before == {name: (parties.hospital.folder / name).read_bytes() for name in before}


@pytest.mark.parametrize("place", [0, 40, 0.3, 0.6, -COMMENT_BYTES - 10, -COMMENT_BYTES + 20, -30])
def test_a_changed_byte_is_noticed(parties: Parties, place: float) -> None:
    raw = bytearray(parties.kit.read_bytes())
    index = int(place * len(raw)) if 0 < place < 1 else int(place)
    raw[index] ^= 1
    parties.kit.write_bytes(raw)
    ran = parties.join()
    assert ran.code in (4, 5), ran.err
    assert "Traceback" not in ran.err
    assert names(parties.hospital.folder) == set()


@pytest.mark.parametrize("cut", [0, 10, 200, -1])
def test_a_cut_file_is_no_kit(parties: Parties, cut: int) -> None:
    parties.kit.write_bytes(parties.kit.read_bytes()[:cut])
    ran = parties.join()
    assert ran.code == 4
    assert "is not a study's kit" in ran.err
    assert names(parties.hospital.folder) == set()


def signed(archive: bytes, key: SigningKey, path: Path) -> Path:
    """An archive with a valid signature: what a hostile coordinator could send."""
    from hashlib import sha256

    content = archive[:-COMMENT_BYTES]
    message = b"sltool-kit 1\n" + sha256(content).hexdigest().encode()
    comment = f"sltool-kit 1 {key.public} {key.sign(message)}\n"
    path.write_bytes(content + comment.encode())
    return path


def hostile(members: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", compression) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, compression)
        archive.comment = bytes(COMMENT_BYTES)
    return raw.getvalue()


@pytest.mark.parametrize(
    ("members", "compression"),
    [
        ([("study.yaml", b""), ("leaflet.html", b""), ("../../evil", b"x")], zipfile.ZIP_STORED),
        ([("study.yaml", b""), ("leaflet.html", b"")], zipfile.ZIP_STORED),
        ([(name, b"") for name in [*MEMBERS, "more"]], zipfile.ZIP_STORED),
        ([(name, bytes(10**7)) for name in MEMBERS], zipfile.ZIP_DEFLATED),
    ],
    ids=["path", "missing", "more", "compressed"],
)
def test_a_signed_archive_that_is_no_kit(
    parties: Parties, members: list[tuple[str, bytes]], compression: int, tmp_path: Path
) -> None:
    key = SigningKey.load(parties.coordinator.folder / "coordinator" / "key")
    parties.kit = signed(hostile(members, compression), key, tmp_path / "hostile.zip")
    ran = parties.join()
    assert ran.code == 4
    assert "is not a kit" in ran.err
    assert names(parties.hospital.folder) == set()


def test_bytes_before_the_archive_are_refused(parties: Parties, tmp_path: Path) -> None:
    key = SigningKey.load(parties.coordinator.folder / "coordinator" / "key")
    parties.kit = signed(b"#!/bin/sh\n" + parties.kit.read_bytes(), key, tmp_path / "k.zip")
    assert parties.join().code == 4


def test_a_link_is_not_followed(parties: Parties, tmp_path: Path) -> None:
    link = tmp_path / "link.zip"
    link.symlink_to(parties.kit)
    parties.kit = link
    ran = parties.join()
    assert ran.code == 4
    assert "not a regular file" in ran.err


def test_another_coordinator_is_not_trusted(parties: Parties, tmp_path: Path) -> None:
    parties.join().ok()
    kit = read_kit(parties.kit)
    members = dict(zip(MEMBERS, (kit.study + b"\n# x\n", kit.layer, kit.leaflet), strict=True))
    other = SigningKey.load_or_create(tmp_path / "other")
    write_kit(parties.kit, members, other)
    before = (parties.hospital.folder / "study.yaml").read_bytes()
    ran = parties.join()
    assert ran.code == 5
    assert "another key signed this kit" in ran.err
    assert (parties.hospital.folder / "study.yaml").read_bytes() == before
    parties.join("--fingerprint", fingerprint(other.public).upper().replace(" ", "-")).ok()


def test_a_fingerprint_that_differs_stops_the_first_join(parties: Parties) -> None:
    ran = parties.join("--fingerprint", "0123 4567")
    assert ran.code == 5
    assert names(parties.hospital.folder) == set()


def test_another_study_is_not_unpacked_over_this_one(parties: Parties) -> None:
    parties.hospital("study", "new", "cholesterol").ok()
    ran = parties.join()
    assert ran.code == 6
    assert "another study" in ran.err


def test_a_later_version_replaces_the_earlier(parties: Parties) -> None:
    parties.join().ok()
    old = parties.hospital.folder / "B.pub"
    parties.replace("max_leak: null", "max_leak: 0.2")
    ran = parties.coordinator("study", "add", old)
    assert ran.code == 6
    assert "another version of this study: privacy differs" in ran.err
    assert listed(parties.coordinator.folder) == {}
    key = listed(parties.hospital.folder)
    joined = parties.join("--json").ok().json
    assert joined["changed"] == ["privacy"]
    assert listed(parties.hospital.folder) == key
    parties.coordinator("study", "add", old).ok()


def test_training_settings_do_not_make_another_version(parties: Parties) -> None:
    parties.join().ok()
    parties.replace("epochs: 2", "epochs: 3")
    parties.coordinator("study", "add", parties.hospital.folder / "B.pub").ok()


def test_a_study_file_that_was_edited_here_is_not_lost(parties: Parties) -> None:
    parties.join().ok()
    path = parties.hospital.folder / "study.yaml"
    path.write_text(path.read_text().replace("epochs: 2", "epochs: 9"))
    parties.replace("max_leak: null", "max_leak: 0.2")
    ran = parties.join()
    assert ran.code == 2
    assert "changed in this folder" in ran.err
    assert "epochs: 9" in path.read_text()
    parties.join("--force").ok()
    assert "max_leak: 0.2" in path.read_text()


def test_sites_added_at_the_server_are_not_lost(parties: Parties) -> None:
    parties.server("join", parties.kit).ok()
    parties.join().ok()
    parties.server("study", "add", parties.hospital.folder / "B.pub").ok()
    parties.replace("max_leak: null", "max_leak: 0.2")
    ran = parties.server("join", parties.kit)
    assert ran.code == 2
    assert "lists B; the kit does not" in ran.err


def test_the_coordinators_own_folder_joins_without_losing_sites(parties: Parties) -> None:
    parties.join().ok()
    parties.coordinator("study", "add", parties.hospital.folder / "B.pub").ok()
    parties.coordinator("join", parties.kit, "--site", "A").ok()
    assert set(listed(parties.coordinator.folder)) == {"A", "B"}


def test_a_site_that_the_study_lists_cannot_be_taken(
    parties: Parties, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    parties.join().ok()
    parties.coordinator("study", "add", parties.hospital.folder / "B.pub").ok()
    parties.coordinator("study", "kit").ok()
    (tmp_path / "thief").mkdir()
    thief = Sltool(tmp_path / "thief", capfd)
    ran = thief("join", parties.kit, "--site", "B")
    assert ran.code == 6
    assert "another key for site B" in ran.err
    assert names(thief.folder) == set()


def test_a_changed_public_key_file_is_refused(parties: Parties) -> None:
    parties.join().ok()
    path = parties.hospital.folder / "B.pub"
    path.write_bytes(path.read_bytes().replace(b'"site":"B"', b'"site":"C"'))
    ran = parties.coordinator("study", "add", path)
    assert ran.code == 5
    assert listed(parties.coordinator.folder) == {}


def test_names_that_differ_in_case_alone_are_refused(parties: Parties, tmp_path: Path) -> None:
    parties.join().ok()
    parties.coordinator("study", "add", parties.hospital.folder / "B.pub").ok()
    parties.server("join", parties.kit, "--site", "b").ok()
    ran = parties.coordinator("study", "add", parties.server.folder / "b.pub")
    assert ran.code == 2
    assert "B and b are the same folder" in ran.err


def test_enroll_writes_the_same_file_as_join(parties: Parties) -> None:
    parties.join().ok()
    path = parties.hospital.folder / "B.pub"
    before = path.read_bytes()
    path.unlink()
    parties.hospital("enroll", "--site", "B").ok()
    assert path.read_bytes() == before


def test_a_recipient_for_predictions_reaches_study_yaml(parties: Parties) -> None:
    pytest.importorskip("pyrage", reason="encryption is optional")
    parties.join().ok()
    path = parties.hospital.folder / "B.pub"
    parties.coordinator("study", "add", path).ok()
    made = parties.hospital("enroll", "--site", "B", "--encrypt", "--json").ok().json
    assert made["recipient"].startswith("age1")
    ran = parties.coordinator("study", "add", path)
    assert ran.code == 6
    assert f"enter `recipient: {made['recipient']}` under sites.B" in ran.err
    parties.server("join", parties.kit).ok()
    parties.server("study", "add", path).ok()
    study = yaml.safe_load((parties.server.folder / "study.yaml").read_text())
    assert study["sites"]["B"]["recipient"] == made["recipient"]
    before = path.read_bytes()
    parties.hospital("enroll", "--site", "B").ok()
    assert path.read_bytes() == before


def test_the_servers_keys_are_entered_in_study_yaml(parties: Parties) -> None:
    study_file = parties.coordinator.folder / "study.yaml"
    study_file.write_text(study_file.read_text() + "# agreed on in May\n")
    before = load_study(StudyFolder(parties.coordinator.folder))
    made = parties.coordinator("server-keys", "--enter", "--json").ok().json
    after = load_study(StudyFolder(parties.coordinator.folder))
    assert after.server.model_dump() == made
    assert after.model_copy(update={"server": before.server}) == before
    assert "# agreed on in May" in study_file.read_text()
    text = study_file.read_text()
    parties.coordinator("server-keys", "--enter").ok()
    assert study_file.read_text() == text
    other = SigningKey.load_or_create(parties.coordinator.folder / "other").public
    study_file.write_text(text.replace(made["key"], other))
    ran = parties.coordinator("server-keys", "--enter")
    assert ran.code == 6
    assert "another server.key" in ran.err
    assert made["key"] in ran.err


def test_a_table_that_calls_a_column_otherwise(parties: Parties, tmp_path: Path) -> None:
    parties.join().ok()
    own = [{"bmi": "BodyMassIndex", "LDL": "LDL-C"}.get(name, name) for name in COLUMNS]
    source = table(tmp_path / "b.csv", own)
    ran = parties.hospital("prepare", "--source", source)
    assert ran.code == 3
    assert "the table has no column 'bmi', 'LDL'" in ran.err
    assert "`--column bmi=HEADER LDL=LDL-C`" in ran.err
    mapping = ["--column", "bmi=BodyMassIndex", "LDL=LDL-C"]
    done = parties.hospital("prepare", "--source", source, *mapping, "--json").ok().json
    assert done["samples"] == 60
    assert "BodyMassIndex" not in (parties.hospital.folder / "study.yaml").read_text()
    again = parties.hospital("prepare", "--source", source).ok()
    assert "already prepared" in again.out
    own[2] = "BMI2"
    renamed = parties.hospital("prepare", "--source", table(tmp_path / "c.csv", own))
    assert renamed.code == 3
    assert "no column 'BodyMassIndex'" in renamed.err


def test_a_table_is_asked_for_the_headers_that_the_study_names(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    parties = Parties(tmp_path, capfd)
    settings = ("dataset.patient=id", "dataset.headers={bmi: BMI, LDL: LDL-C}")
    parties.coordinator("study", "new", "cholesterol", "--set", *settings).ok()
    parties.coordinator("study", "kit").ok()
    asked = ["age", "sex", "BMI", "bp", "TC", "HDL", "TG", "LDL-C", "id"]
    assert f"the columns {', '.join(asked)} (or" in parties.join().ok().out
    own = [{"bmi": "BodyMassIndex"}.get(name, name) for name in COLUMNS]
    head, *rows = table(tmp_path / "b.csv", own).read_text().splitlines()
    source = tmp_path / "patients.csv"
    source.write_text("\n".join([f"{head},nr", *(f"{row},{n}" for n, row in enumerate(rows))]))
    ran = parties.hospital("prepare", "--source", source)
    assert "the table has no column 'BMI', 'LDL-C', 'id'" in ran.err
    # Either name of a column will do.
    mapping = ["--column", "bmi=BodyMassIndex", "LDL-C=LDL", "patient=nr"]
    assert parties.hospital("prepare", "--source", source, *mapping, "--json").ok().json["samples"]
    columns = parties.hospital.folder / "columns.json"
    known = {"BMI": "BodyMassIndex", "LDL-C": "LDL", "id": "nr"}
    assert json.loads(columns.read_text()) == known
    # Earlier versions kept the tool's own names.
    columns.write_text(json.dumps({"bmi": "BodyMassIndex", "LDL": "LDL", "patient": "nr"}))
    assert "already prepared" in parties.hospital("prepare", "--source", source).ok().out
    assert json.loads(columns.read_text()) == known


def test_a_column_that_the_study_does_not_have(parties: Parties, tmp_path: Path) -> None:
    parties.join().ok()
    source = table(tmp_path / "b.csv")
    ran = parties.hospital("prepare", "--source", source, "--column", "bim=BMI")
    assert ran.code == 2
    assert "did you mean 'bmi'?" in ran.err
    assert not (parties.hospital.folder / "columns.json").exists()


def test_columns_of_any_table(sltool: Sltool, tmp_path: Path) -> None:
    coordinators = tmp_path / "a.csv"
    coordinators.write_text("dose,weight,died\n" + "1.5,70,no\n2.5,80,yes\n" * 20)
    ranges = ["--from-this-site"]
    sltool(
        "prepare", "table", "--source", coordinators, "--set", "dataset.headers.label=died", *ranges
    ).ok()
    sites = tmp_path / "b.csv"
    sites.write_text("dosis,weight,tot\n" + "1.5,70,no\n2.5,80,yes\n" * 30)
    ran = sltool("prepare", "--source", sites)
    assert ran.code == 3
    assert "no column 'dose', 'died'" in ran.err
    done = sltool("prepare", "--source", sites, "--column", "dose=dosis", "died=tot", "--json").ok()
    assert done.json["samples"] == 60
