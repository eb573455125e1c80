"""A patient withdraws: from the hospital's command to the server's store."""

from __future__ import annotations

import csv
import shutil
import stat

import h5py
import numpy as np
import pytest

from sltool.study.layout import StudyFolder
from tests.conftest import Sltool
from tests.shard.forge import Forge


def first_patient(sltool: Sltool, split: str = "train") -> tuple[str, list[str]]:
    """A patient of site B and the pseudonyms of the patient's samples."""
    with (sltool.folder / "sites" / "B" / "pseudonyms.csv").open() as file:
        rows = list(csv.DictReader(file))
    patient = next(row["patient"] for row in rows if row["split"] == split)
    return patient, [row["pseudonym"] for row in rows if row["patient"] == patient]


def in_store(sltool: Sltool, pseudonyms: list[str]) -> bool:
    """Whether any of these occurs in the store."""
    files = (sltool.folder / "server" / "store").iterdir()
    return any(
        pseudonym.encode() in file.read_bytes() for file in files for pseudonym in pseudonyms
    )


def test_withdrawn_rows_leave_the_store_and_stay_out(trained: Sltool) -> None:
    patient, gone = first_patient(trained)
    assert in_store(trained, gone), "the positive control"
    done = trained("withdraw", "--site", "B", "--patient", patient, "--json").ok().json
    assert done["samples"] == len(gone)
    trained("ship", "--site", "B").ok()
    ran = trained("server-train", "--run", "after", "--json").ok()
    assert "runs that saw the rows: default" in ran.err
    assert ran.json["samples"] == 354 - len(gone)
    assert not in_store(trained, gone)
    assert "runs that saw the rows: default" in trained("status").ok().err

    trained("ship", "--site", "B", "--force").ok()
    trained("queue", "take").ok()
    assert not in_store(trained, gone)
    shutil.rmtree(trained.folder / "server" / "store")
    trained("queue", "take").ok()
    assert not in_store(trained, gone)
    assert in_store(trained, [first_patient(trained, "test")[1][0]])


def test_withdrawn_rows_are_refused_in_a_shard_that_comes_later(trained: Sltool) -> None:
    forge = Forge(StudyFolder(trained.folder))
    patient, gone = first_patient(trained)
    trained("withdraw", "--site", "B", "--patient", patient).ok()
    trained("ship", "--site", "B").ok()
    columns = forge.columns()
    columns["pseudonyms"][4] = gone[0].encode()
    marked = columns["features"][4].tobytes()
    path = forge.shard(trained.folder / "late.h5", site="B", columns=columns)
    trained("queue", "take").ok()
    trained("queue", "take", path).ok()
    features = (trained.folder / "server" / "store" / "train.features").read_bytes()
    assert not in_store(trained, gone)
    assert marked not in features
    assert columns["features"][5].tobytes() in features


def test_a_site_can_withdraw_only_its_own(trained: Sltool) -> None:
    from sltool.shard.withdrawal import write_withdrawal

    forge = Forge(StudyFolder(trained.folder))
    _, theirs = first_patient(trained)
    inbox = trained.folder / "server" / "inbox"
    write_withdrawal(inbox, forge.study, "A", theirs, forge.key("A"))
    trained("queue", "take").ok()
    assert in_store(trained, theirs)
    forged = write_withdrawal(trained.folder, forge.study, "B", theirs, forge.key("A"))
    assert trained("queue", "take", forged).code == 5
    assert in_store(trained, theirs)


def shipped_records(sltool: Sltool, site: str = "B") -> set[str]:
    """The records whose rows are in the site's outbox."""
    table = sltool.folder / "sites" / site / "pseudonyms.csv"
    with table.open() as file:
        record_of = {row["pseudonym"].encode(): row["record"] for row in csv.DictReader(file)}
    found: set[str] = set()
    for path in (sltool.folder / "outbox" / site).glob("*.h5"):
        with h5py.File(path) as shard:
            found |= {record_of[pseudonym] for pseudonym in shard["pseudonyms"][:]}
    return found


@pytest.mark.parametrize(
    "again",
    [
        [["client-encode", "--site", "B", "--force"]],
        [["partition", "--force"], ["client-encode", "--site", "B"]],
        [
            ["prepare", "--force"],
            ["partition", "--force"],
            ["client-encode", "--site", "B"],
        ],
        [["partition", "--site", "B", "--force"], ["client-encode", "--site", "B"]],
    ],
    ids=lambda stages: stages[0][0] + stages[0][-2].replace("--", "-"),
)
def test_no_stage_encodes_withdrawn_rows_again(trained: Sltool, again: list[list[str]]) -> None:
    before = shipped_records(trained)
    gone = [first_patient(trained, split)[0] for split in ("train", "validation", "test")]
    assert set(gone) <= before, "the positive control: here a record is a patient"
    for patient in gone:
        trained("withdraw", "--site", "B", "--patient", patient).ok()
    for stage in again:
        trained(*stage).ok()
    after = shipped_records(trained)
    assert after
    assert not set(gone) & after


def test_withdrawn_rows_are_at_no_site_after_a_new_partition(trained: Sltool) -> None:
    patient, _ = first_patient(trained)
    trained("withdraw", "--site", "B", "--patient", patient).ok()
    trained("partition", "--ratios", "1:1", "--force").ok()
    everyone: list[str] = []
    for table in (trained.folder / "sites").glob("[AB]/pseudonyms.csv"):
        with table.open() as file:
            everyone += [row["patient"] for row in csv.DictReader(file)]
    assert len(everyone) == 441
    assert patient not in everyone


def test_withdrawn_rows_leave_the_prepared_file(trained: Sltool) -> None:
    patient, _ = first_patient(trained)
    trained("withdraw", "--site", "B", "--patient", patient).ok()
    ran = trained("prepare", "--force", "--json").ok()
    assert ran.json["samples"] == 441
    assert "1 sample of patients who withdrew" in ran.err
    with h5py.File(trained.folder / "prepared.h5") as file:
        assert len(file["inputs"]) == len(file["labels"]) == 441
        assert patient not in file["groups"].asstr()[:]


def test_the_list_of_who_withdrew_is_private(trained: Sltool) -> None:
    patient, gone = first_patient(trained)
    trained("withdraw", "--site", "B", "--patient", patient).ok()
    path = trained.folder / "sites" / "B" / "withdrawn.csv"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["patient"] for row in rows] == [patient] * len(gone)
    assert [row["pseudonym"] for row in rows] == gone
    trained("withdraw", "--site", "B", "--patient", patient).ok()
    with path.open() as file:
        assert list(csv.DictReader(file)) == rows, "to withdraw twice changes nothing"


def test_a_damaged_list_stops_the_encoding(trained: Sltool) -> None:
    patient, _ = first_patient(trained)
    trained("withdraw", "--site", "B", "--patient", patient).ok()
    (trained.folder / "sites" / "B" / "withdrawn.csv").write_text("record\n5\n")
    ran = trained("client-encode", "--site", "B", "--force")
    assert ran.code == 3
    assert "withdrawn.csv" in ran.err


def test_an_outbox_that_holds_withdrawn_rows_says_so(trained: Sltool) -> None:
    patient, _ = first_patient(trained)
    assert "withdrew" not in trained("client-encode", "--site", "B").ok().err
    trained("withdraw", "--site", "B", "--patient", patient).ok()
    assert "1 sample of patients who withdrew" in trained("client-encode", "--site", "B").ok().err
    ran = trained("client-encode", "--site", "B", "--force", "--json").ok()
    assert ran.json["samples"] == 88
    assert "1 sample of patients who withdrew" in ran.err


def test_rows_withdrawn_before_shipping_never_leave(sltool: Sltool) -> None:
    sltool("prepare", "cholesterol").ok()
    sltool("partition").ok()
    sltool("client-encode", "--site", "B").ok()
    patient, _ = first_patient(sltool)
    assert "client-encode" in sltool("withdraw", "--site", "B", "--patient", patient).ok().out
    sltool("ship", "--site", "B").ok()
    inbox = sltool.folder / "server" / "inbox"
    assert [path.suffix for path in inbox.iterdir()] == [".withdrawal"]
    sltool("client-encode", "--site", "B").ok()
    assert patient not in shipped_records(sltool)
    sltool("ship", "--site", "B").ok()
    assert len(list(inbox.glob("*.h5"))) == 3


def test_a_patient_withdraws_after_a_new_partition(trained: Sltool) -> None:
    """Rows shipped under the earlier pseudonyms are withdrawn, too."""
    patient, gone = first_patient(trained)
    trained("partition", "--force").ok()
    assert in_store(trained, gone)
    trained("withdraw", "--site", "B", "--patient", patient).ok()
    trained("ship", "--site", "B").ok()
    trained("queue", "take").ok()
    assert not in_store(trained, gone)


@pytest.mark.parametrize("place", [3, 30, -3])
def test_a_changed_withdrawal_is_refused(trained: Sltool, place: int) -> None:
    from sltool.shard.withdrawal import write_withdrawal

    forge = Forge(StudyFolder(trained.folder))
    path = write_withdrawal(trained.folder, forge.study, "A", ["0" * 32], forge.key("A"))
    trained("queue", "verify", path).ok()
    data = np.frombuffer(path.read_bytes(), np.uint8).copy()
    data[place] ^= 1
    path.write_bytes(data.tobytes())
    ran = trained("queue", "take", path)
    assert ran.code in (4, 5, 6)
    assert "Traceback" not in ran.err


def test_mistakes(trained: Sltool) -> None:
    ran = trained("withdraw", "--site", "B", "--patient", "nobody")
    assert ran.code == 3
    assert "no patient with that id" in ran.err
    assert trained("withdraw", "--site", "Z", "--patient", "1").code == 2
