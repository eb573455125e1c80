"""The log at a site: what it says, and that a removed or changed entry is noticed."""

from __future__ import annotations

import getpass
import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sltool.site.log import append, read_log
from sltool.study.layout import SiteFolder, StudyFolder
from tests.conftest import Sltool


def site_of(sltool: Sltool, name: str = "A") -> SiteFolder:
    return StudyFolder(sltool.folder).site(name)


def events(sltool: Sltool, name: str = "A") -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = sltool("log", "--site", name, "--json").ok().json["entries"]
    return entries


@pytest.fixture
def logged(tmp_path: Path) -> SiteFolder:
    """A site whose log has four entries."""
    site = StudyFolder(tmp_path).site("A")
    for count in range(4):
        append(site, "encoded", samples=count)
    return site


def test_every_stage_is_logged_with_who_when_and_digests(trained: Sltool) -> None:
    folder = site_of(trained)
    patient = folder.pseudonyms.read_text().splitlines()[1].split(",")[4]
    trained("withdraw", "--site", "A", "--patient", patient).ok()
    found = events(trained)
    names = [entry["event"] for entry in found]
    assert names == ["enrolled", "encoded", "shipping", "shipped", "withdrew"]
    assert {entry["user"] for entry in found} == {getpass.getuser()}
    assert all(entry["time"].endswith("+00:00") for entry in found)
    assert patient not in folder.log.read_text().split('"files"')[-1]
    encoded, shipped = found[1]["details"], found[3]["details"]
    assert set(encoded["shards"]) == set(shipped["files"])
    assert len(encoded["encoding"]) == 64
    shown = trained("log", "--site", "A").ok().out
    assert "shipped" in shown
    assert "the chain is whole" in shown


def test_what_is_done_again_without_effect_is_not_logged(trained: Sltool) -> None:
    before = events(trained)
    for stage in (["partition"], ["client-encode"], ["ship"], ["enroll", "--site", "A"]):
        trained(*stage).ok()
    assert events(trained) == before


def test_an_accepted_risk_is_logged(sltool: Sltool) -> None:
    sltool("prepare", "cholesterol", "--set", "privacy.max_leak=0.5").ok()
    sltool("partition", "--site", "A").ok()
    sltool("client-encode").ok()
    assert sltool("ship").code == 3
    assert [entry["event"] for entry in events(sltool)] == ["enrolled", "encoded"]
    sltool("ship", "--accept-risk", "geprüft").ok()
    accepted, shipping = events(sltool)[2:4]
    assert accepted["event"] == "accepted-risk"
    assert accepted["details"]["reason"] == "geprüft"
    assert len(accepted["details"]["payloads"]) == 3
    assert shipping["event"] == "shipping"


def test_only_its_owner_reads_it(logged: SiteFolder) -> None:
    for path in (logged.log, logged.log_head):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def lines(site: SiteFolder) -> list[bytes]:
    return site.log.read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        (slice(0, 1), "before entry 0"),
        (slice(1, 2), "before entry 1"),
        (slice(3, 4), "at the end, 1 of 4 entries was removed"),
        (slice(0, 4), "at the end, 4 of 4 entries were removed"),
    ],
)
def test_a_removed_entry_is_noticed(logged: SiteFolder, remove: slice, message: str) -> None:
    kept = lines(logged)
    del kept[remove]
    logged.log.write_bytes(b"".join(kept))
    assert any(message in problem for problem in read_log(logged).problems)


@pytest.mark.parametrize("index", range(4))
def test_a_changed_entry_is_noticed(logged: SiteFolder, index: int) -> None:
    changed = lines(logged)
    changed[index] = changed[index].replace(b'"samples":', b'"samples":1')
    logged.log.write_bytes(b"".join(changed))
    assert read_log(logged).problems


def test_a_removed_log_and_a_removed_head_are_noticed(logged: SiteFolder) -> None:
    head = logged.log_head.read_bytes()
    logged.log_head.unlink()
    assert "log.head" in read_log(logged).problems[0]
    logged.log_head.write_bytes(head)
    logged.log.unlink()
    assert read_log(logged).problems


def test_an_entry_that_was_added_by_hand_is_noticed(logged: SiteFolder) -> None:
    entry = json.loads(lines(logged)[-1])
    for _ in range(2):
        with logged.log.open("a") as file:
            file.write(json.dumps({**entry, "number": entry["number"] + 1}) + "\n")
    assert read_log(logged).problems


def test_the_command_says_that_the_chain_is_broken(trained: Sltool) -> None:
    site = site_of(trained)
    site.log.write_bytes(b"".join(lines(site)[1:]))
    ran = trained("log", "--site", "A")
    assert ran.code == 3
    assert "removed or changed" in ran.err
    assert "the chain is broken" in ran.out
    assert trained("log", "--site", "A", "--json").json["problems"]
    trained("ship", "--site", "A", "--force").ok()
    assert trained("log", "--site", "A").code == 3


@pytest.mark.parametrize("cut", [1, 2, 40])
def test_a_torn_last_line_stays_and_is_no_break(logged: SiteFolder, cut: int) -> None:
    head = logged.log_head.read_bytes()
    append(logged, "shipped", destination="disk")
    logged.log.write_bytes(logged.log.read_bytes()[:-cut])
    logged.log_head.write_bytes(head)
    torn = read_log(logged)
    assert (torn.problems, torn.torn, len(torn.entries)) == ([], [4], 4)
    rest = logged.log.read_bytes()
    append(logged, "audited", leak=0.5)
    after = read_log(logged)
    assert logged.log.read_bytes().startswith(rest)
    assert not after.problems
    assert after.entries[-1]["event"] == "audited"
    logged.log.write_bytes(logged.log.read_bytes().replace(rest.splitlines()[-1], b"{"))
    assert read_log(logged).problems


def test_a_crash_between_the_entry_and_its_head_is_no_break(logged: SiteFolder) -> None:
    head = logged.log_head.read_bytes()
    append(logged, "shipped", destination="disk")
    logged.log_head.write_bytes(head)
    assert not read_log(logged).problems
    append(logged, "audited", leak=0.5)
    assert not read_log(logged).problems


def test_several_at_once(logged: SiteFolder) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda count: append(logged, "encoded", samples=count), range(40)))
    found = read_log(logged)
    assert len(found.entries) == 44
    assert not found.problems


def test_a_log_that_cannot_be_written_stops_what_it_would_have_logged(trained: Sltool) -> None:
    site = site_of(trained)
    kept = site.log.read_bytes()
    site.log.unlink()
    site.log.mkdir()
    ran = trained("ship", "--site", "A", "--to", trained.folder / "disk")
    assert ran.code == 3, ran.err
    assert not (trained.folder / "disk").exists()
    site.log.rmdir()
    site.log.write_bytes(kept)
    trained("ship", "--site", "A", "--to", trained.folder / "disk").ok()
