"""`privacy` in study.yaml: what `ship` refuses, and the risk that a site accepts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sltool.site.audit import attacker
from tests.conftest import Sltool

SHIP = ("ship", "--site", "B")


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("quick", "thorough"):
        small = attacker.Budget(name, 200, 40, steps=8, descent=8, optimised=4, rows=1000)
        monkeypatch.setitem(attacker.BUDGETS, name, small)


def study(sltool: Sltool, *limits: str) -> Sltool:
    words = [word for limit in limits for word in ("--set", f"privacy.{limit}")]
    sltool("prepare", "cholesterol", *words).ok()
    sltool("partition", "--site", "B").ok()
    sltool("client-encode").ok()
    return sltool


def set_limit(sltool: Sltool, old: str, new: str) -> None:
    path = sltool.folder / "study.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def inbox(sltool: Sltool) -> list[Path]:
    return sorted((sltool.folder / "server" / "inbox").glob("*"))


def refused(sltool: Sltool, *words: str) -> None:
    ran = sltool(*SHIP)
    assert ran.code == 3, ran.err
    for word in words:
        assert word in ran.err
    assert not inbox(sltool)


def test_without_limits_nothing_has_to_be_audited(sltool: Sltool) -> None:
    study(sltool)(*SHIP).ok()
    assert len(inbox(sltool)) == 3


def test_shards_without_an_audit_do_not_ship(sltool: Sltool) -> None:
    study(sltool, "audit=quick")
    refused(sltool, "not been audited", "sltool audit --site B")
    sltool("audit").ok()
    sltool(*SHIP).ok()


@pytest.mark.parametrize(
    ("limit", "figure"),
    [
        ("max_leak", "leak"),
        ("max_linkage", "linkage_top1"),
        ("max_exact_recovery", "exact_recovery"),
    ],
)
def test_a_figure_above_its_limit_is_named(sltool: Sltool, limit: str, figure: str) -> None:
    study(sltool, f"{limit}=0.25")
    sltool("audit").ok()
    refused(sltool, f"{figure} is", f"privacy.{limit}: 0.25", "--accept-risk")
    set_limit(sltool, f"{limit}: 0.25", f"{limit}: 1.0")
    sltool(*SHIP).ok()


@pytest.mark.slow
def test_a_quick_audit_is_not_a_thorough_one(sltool: Sltool) -> None:
    study(sltool, "audit=thorough")
    sltool("audit").ok()
    refused(sltool, "thorough", "--budget thorough")
    sltool("audit", "--budget", "thorough").ok()
    sltool(*SHIP).ok()


def test_an_audit_of_another_encoding_does_not_count(sltool: Sltool) -> None:
    study(sltool, "audit=quick")
    sltool("audit").ok()
    set_limit(sltool, "noise: 0.0", "noise: 0.5")
    sltool("client-encode").ok()
    refused(sltool, "another encoding")
    sltool("audit").ok()
    sltool(*SHIP).ok()


def test_an_audit_of_another_seed_does_not_count(sltool: Sltool) -> None:
    study(sltool, "audit=quick")
    sltool("audit").ok()
    sltool("partition", "--site", "B", "--force").ok()
    sltool("client-encode").ok()
    refused(sltool, "another seed")


def test_an_audit_of_other_shards_does_not_count(sltool: Sltool) -> None:
    study(sltool, "audit=quick")
    sltool("audit").ok()
    path = sltool.folder / "sites" / "B" / "audit.json"
    record = json.loads(path.read_text())
    record["bound"]["payloads"].popitem()
    path.write_text(json.dumps(record))
    refused(sltool, "other shards")


def test_a_damaged_audit_does_not_count(sltool: Sltool) -> None:
    study(sltool, "audit=quick")
    (sltool.folder / "sites" / "B" / "audit.json").write_text("{}")
    refused(sltool, "damaged", "sltool audit --force")


def test_an_accepted_risk_is_signed_and_shown_at_the_server(sltool: Sltool) -> None:
    study(sltool, "max_exact_recovery=0.0", "audit=quick")
    sltool("audit").ok()
    refused(sltool, "exact_recovery is 1")
    reason = "Prüfung 12/3: agreed with the data-protection officer"
    sltool(*SHIP, "--accept-risk", reason).ok()
    assert "already shipped" in sltool(*SHIP).ok().out
    assert "already shipped" in sltool(*SHIP, "--accept-risk", reason).ok().out
    taken = sltool("queue", "take", "--json").ok().json
    assert len(taken["accepted"]) == 3
    shown = sltool("status", "--json").ok().json["accepted_risks"]
    assert [(accepted["site"], accepted["reason"], accepted["shards"]) for accepted in shown] == [
        ("B", reason, 3)
    ]
    assert "exact_recovery is 1" in shown[0]["refusal"]
    assert reason in sltool("status").ok().err


def test_a_risk_accepted_for_one_figure_is_not_accepted_for_another(sltool: Sltool) -> None:
    study(sltool, "max_exact_recovery=0.0")
    sltool("audit").ok()
    sltool(*SHIP, "--accept-risk", "agreed").ok()
    set_limit(sltool, "max_leak: null", "max_leak: 0.1")
    assert sltool(*SHIP, "--to", "disk").code == 3


@pytest.mark.parametrize("reason", ["", "x" * 201, "two\nlines", "\x1b[31mred"])
def test_a_reason_that_cannot_be_shown_is_refused(sltool: Sltool, reason: str) -> None:
    study(sltool, "max_leak=0.0")
    ran = sltool(*SHIP, "--accept-risk", reason)
    assert ran.code == 2
    assert "--accept-risk" in ran.err
    assert not inbox(sltool)


def test_a_withdrawal_ships_whatever_the_limits_say(sltool: Sltool) -> None:
    study(sltool)(*SHIP).ok()
    sltool("queue", "take").ok()
    set_limit(sltool, "max_leak: null", "max_leak: 0.0")
    table = (sltool.folder / "sites" / "B" / "pseudonyms.csv").read_text().splitlines()
    sltool("withdraw", "--site", "B", "--patient", table[1].split(",")[4]).ok()
    ran = sltool(*SHIP)
    assert ran.code == 3
    assert [path.suffix for path in inbox(sltool)] == [".withdrawal"]
