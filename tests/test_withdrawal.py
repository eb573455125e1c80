"""A patient withdraws: from the hospital's command to the server's store."""

from __future__ import annotations

import csv
import shutil

import numpy as np
import pytest

from sltool.layout import StudyFolder
from tests.conftest import Sltool
from tests.shard.forge import Forge


def first_patient(sltool: Sltool, split: str = "train") -> tuple[str, list[str]]:
    """A patient of site B and the pseudonyms of his samples."""
    with (sltool.folder / "sites" / "B" / "pseudonyms.csv").open() as file:
        rows = list(csv.DictReader(file))
    patient = next(row["patient"] for row in rows if row["split"] == split)
    return patient, [row["pseudonym"] for row in rows if row["patient"] == patient]


def in_store(sltool: Sltool, pseudonyms: list[str]) -> bool:
    """Whether any byte in the store says one of these."""
    files = (sltool.folder / "server" / "store").iterdir()
    return any(one.encode() in file.read_bytes() for file in files for one in pseudonyms)


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
    assert "no patient of that id" in ran.err
    assert trained("withdraw", "--site", "Z", "--patient", "1").code == 2
