"""`sltool status` names the command to type next, at every party and at every stage."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from sltool.site.log import read_log
from sltool.study.layout import StudyFolder
from tests.conftest import Sltool


def steps(sltool: Sltool) -> dict[str, str]:
    """Who types what next, from --json."""
    found: list[dict[str, str]] = sltool("status", "--json").ok().json["next"]
    return {step["who"]: step["command"] for step in found}


def run_next(sltool: Sltool, who: str, **values: object) -> None:
    """Type the command that `status` names, with the capital words replaced."""
    words = steps(sltool)[who].split()[1:]
    sltool(*(values.get(word.replace("|", "_"), word) for word in words)).ok()


@pytest.fixture
def coordinator(sltool: Sltool) -> Sltool:
    sltool("study", "new", "cholesterol", "--set", "training.epochs=2").ok()
    return sltool


@pytest.fixture
def hospital(coordinator: Sltool, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Sltool:
    """A site that has joined."""
    coordinator("study", "kit").ok()
    (tmp_path / "hospital").mkdir()
    site = Sltool(tmp_path / "hospital", capfd)
    site("join", coordinator.folder / "study-kit.zip", "--site", "B").ok()
    return site


def table(path: Path) -> Path:
    head = "age,sex,bmi,bp,TC,HDL,TG,LDL\n"
    path.write_text(head + "".join(f"{20 + n},1,27,94,190,50,120,{99 + n}\n" for n in range(60)))
    return path


def test_an_empty_folder(sltool: Sltool) -> None:
    shown = sltool("status").ok().out
    assert "there is no study here" in shown
    assert "sltool join KIT --site NAME" in shown
    assert "sltool study new DATASET" in shown


def test_a_site_that_has_only_joined(hospital: Sltool) -> None:
    shown = hospital("status").ok().out
    assert "site B: joined" in shown
    assert "next, site B: sltool prepare --source PATH" in shown
    assert "shards  samples" not in shown


def test_typing_what_it_says_leads_from_a_kit_to_figures(
    coordinator: Sltool, hospital: Sltool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    returned = coordinator.folder / "B.pub"
    returned.write_bytes((hospital.folder / "B.pub").read_bytes())
    assert steps(coordinator) == {"coordinator": "sltool study add B.pub"}
    run_next(coordinator, "coordinator")
    assert steps(coordinator) == {"coordinator": "sltool study kit"}
    run_next(coordinator, "coordinator")
    assert steps(coordinator) == {"coordinator": ""}

    (tmp_path / "server").mkdir()
    server = Sltool(tmp_path / "server", capfd)
    server("join", coordinator.folder / "study-kit.zip").ok()
    assert steps(server) == {"server": "sltool server-train --watch"}
    assert "server: no shard has arrived" in server("status").out

    inbox = server.folder / "server" / "inbox"
    values = {"PATH": table(tmp_path / "b.csv"), "DIR_URL": inbox}
    for stage in ("prepare", "partition", "client-encode", "ship"):
        assert steps(hospital)["site B"].split()[1] == stage
        run_next(hospital, "site B", **values)
    assert steps(hospital) == {"site B": ""}
    done = hospital("status", "--json").ok().json["sites"][0]
    assert done["done"] == ["joined", "prepared", "partitioned", "encoded", "shipped"]
    assert done["shipped_to"] == [str(inbox)]

    for stage in ("server-train", "evaluate", "report"):
        assert steps(server)["server"].split()[1] == stage
        if stage != "report":
            run_next(server, "server")
    shown = server("status").ok().out
    encoding = server("status", "--json").json["encoding"]
    assert f"accepted of B: encoding {encoding[:16]}, as study.yaml says" in shown


def test_who_has_which_version(coordinator: Sltool, hospital: Sltool) -> None:
    coordinator("study", "add", hospital.folder / "B.pub").ok()
    coordinator("enroll", "--site", "C").ok()
    here = coordinator("status", "--json").ok().json
    parties: dict[str, dict[str, Any]] = {party["site"]: party for party in here["parties"]}
    assert parties["B"]["agreement"] == here["agreement"]
    assert parties["C"]["agreement"] is None
    assert re.search(rf"^B .*{here['agreement'][:16]}: this one$", coordinator("status").out, re.M)

    study = coordinator.folder / "study.yaml"
    study.write_text(study.read_text().replace("max_leak: null", "max_leak: 0.2"))
    assert "privacy differ" in coordinator("status").ok().out
    assert steps(coordinator)["coordinator"] == "sltool study kit"
    coordinator("study", "kit").ok()
    assert "send study-kit.zip to B" in coordinator("status").ok().out


def test_shards_of_an_earlier_encoding_are_to_be_encoded_again(trained: Sltool) -> None:
    study = trained.folder / "study.yaml"
    study.write_text(study.read_text().replace("noise: 0.0", "noise: 0.5"))
    assert steps(trained)["site A"] == "sltool client-encode --site A"
    shown = trained("status").ok().out
    assert "the encoding has changed" in shown
    assert "not that of study.yaml" in shown


def test_an_audit_comes_before_shipping_where_the_study_asks_for_it(sltool: Sltool) -> None:
    sltool("prepare", "cholesterol", "--set", "privacy.audit=thorough").ok()
    sltool("partition", "--site", "B").ok()
    sltool("client-encode").ok()
    assert steps(sltool)["site B"] == "sltool audit --site B --budget thorough"


def test_a_withdrawal_is_to_be_shipped(trained: Sltool) -> None:
    people = StudyFolder(trained.folder).site("A").pseudonyms.read_text().splitlines()
    assert steps(trained)["site A"] == ""
    trained("withdraw", "--site", "A", "--patient", people[1].split(",")[4]).ok()
    assert steps(trained)["site A"].startswith("sltool ship --site A")
    trained("ship", "--site", "A").ok()
    assert steps(trained)["site A"] == ""
    assert "sltool server-train" in steps(trained)["server"]


def test_a_broken_log_is_named(trained: Sltool) -> None:
    log = StudyFolder(trained.folder).site("A").log
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[1:]))
    assert read_log(StudyFolder(trained.folder).site("A")).problems
    assert "the log of site A is not as it was written" in trained("status").ok().err


def test_the_coordinators_state(coordinator: Sltool, hospital: Sltool) -> None:
    assert "coordinator: kit packed, 0 sites added" in coordinator("status").ok().out
    (coordinator.folder / "B.pub").write_bytes((hospital.folder / "B.pub").read_bytes())
    shown = coordinator("status").ok().out
    assert "coordinator: kit packed, 0 sites added, to be added: B.pub" in shown
    coordinator("study", "add", "B.pub").ok()
    shown = coordinator("status").ok().out
    assert "coordinator: the kit is not of this version, 1 site added" in shown
