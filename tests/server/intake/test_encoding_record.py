"""A mistaken edit of study.yaml is named, and no shard is moved."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sltool.study.yaml_text import parse_yaml
from tests.conftest import Sltool


def names(folder: Path) -> list[str]:
    """All files below `server`, except the lock."""
    server = folder / "server"
    return sorted(
        str(path.relative_to(server)) for path in server.rglob("*") if path.name != "lock"
    )


def edit(sltool: Sltool, old: str, new: str) -> str:
    path = sltool.folder / "study.yaml"
    text = path.read_text()
    assert text.count(old) >= 1, text
    path.write_text(text.replace(old, new, 1))
    return text


EDITS = [
    ('  dtype: "float16"', "  dtype: float32", "encoding.dtype", "float16", "float32"),
    ("  noise: 0.0", "  noise: 0.5", "encoding.noise", "0.0", "0.5"),
    ("  clip:", "  clip: 3.0 #", "encoding.clip", "null", "3.0"),
    ("    rotation: 10.0", "    rotation: 20.0", "encoding.augment.rotation", "10.0", "20.0"),
    ("  cut: 1", "  cut: 0", "model.cut", "1", "0"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("old", "new", "key", "was", "now"), EDITS)
def test_every_command_names_the_key_and_undoing_it_makes_all_work(
    trained: Sltool, old: str, new: str, key: str, was: str, now: str
) -> None:
    before = names(trained.folder)
    text = edit(trained, old, new)
    accepted = trained.folder / "server" / "accepted"
    shard = next(accepted.glob("*.h5"))
    for command in (
        ["queue", "take"],
        ["queue", "verify", shard],
        ["server-train", "--run", "other"],
        ["evaluate"],
    ):
        ran = trained(*command)
        assert ran.code == 3, (command, ran.err)
        assert f"{key} is {now}, and was {was}" in ran.err
    assert names(trained.folder) == before
    (trained.folder / "study.yaml").write_text(text)
    assert trained("queue", "take", "--json").ok().json["rejected"] == []
    trained("server-train", "--run", "other").ok()
    trained("evaluate").ok()


def test_the_store_may_be_gone(trained: Sltool) -> None:
    shutil.rmtree(trained.folder / "server" / "store")
    text = edit(trained, "  noise: 0.0", "  noise: 0.5")
    before = names(trained.folder)
    assert trained("server-train").code == 3
    assert names(trained.folder) == before
    (trained.folder / "study.yaml").write_text(text)
    assert trained("queue", "take", "--json").ok().json["rejected"] == []
    arrived = trained("status", "--json").ok().json["arrived"]
    assert sum(series["samples"] for series in arrived) == 442


def test_other_weights_of_the_privacy_layer(trained: Sltool) -> None:
    path = trained.folder / "privacy-layer.safetensors"
    weights = path.read_bytes()
    path.write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    before = names(trained.folder)
    ran = trained("queue", "take")
    assert ran.code == 3
    assert "privacy-layer.safetensors" in ran.err
    assert names(trained.folder) == before
    path.write_bytes(weights)
    trained("queue", "take").ok()


def test_without_a_record_the_server_still_reports_the_mismatch(trained: Sltool) -> None:
    (trained.folder / "server" / "encoding.json").unlink()
    text = edit(trained, "  noise: 0.0", "  noise: 0.5")
    ran = trained("queue", "take")
    assert ran.code == 3
    assert "encoding.noise is 0.5, and was 0.0" in ran.err
    (trained.folder / "study.yaml").write_text(text)
    edit(trained, "    rotation: 10.0", "    rotation: 20.0")
    ran = trained("queue", "take")
    assert ran.code == 3
    assert "dataset, samples, model or encoding" in ran.err
    (trained.folder / "study.yaml").write_text(text)
    trained("queue", "take").ok()
    edit(trained, "    rotation: 10.0", "    rotation: 20.0")
    assert "encoding.augment.rotation is 20.0, and was 10.0" in trained("queue", "take").err


def test_a_new_encoding_begins_when_what_was_accepted_is_put_away(trained: Sltool) -> None:
    edit(trained, "  noise: 0.0", "  noise: 0.5")
    assert "move server/accepted" in trained("queue", "take").err
    (trained.folder / "server" / "accepted").rename(trained.folder / "server" / "before")
    trained("client-encode").ok()
    trained("ship", "--force").ok()
    assert len(trained("queue", "take", "--json").ok().json["accepted"]) == 9


def test_a_site_that_is_struck_off_by_mistake_loses_nothing(trained: Sltool) -> None:
    path = trained.folder / "study.yaml"
    text = path.read_text()
    content = parse_yaml(text, where=path)
    del content["sites"]["B"]
    path.write_text(json.dumps(content))  # JSON is YAML
    shutil.rmtree(trained.folder / "server" / "store")
    accepted = sorted((trained.folder / "server" / "accepted").iterdir())
    ran = trained("queue", "take")
    assert ran.code == 5
    assert "not enrolled for site B" in ran.err
    assert sorted((trained.folder / "server" / "accepted").iterdir()) == accepted
    path.write_text(text)
    trained("queue", "take").ok()


def test_a_damaged_accepted_shard_is_set_aside_and_can_be_shipped_again(trained: Sltool) -> None:
    accepted = trained.folder / "server" / "accepted" / "B-train-00000.h5"
    whole = accepted.read_bytes()
    accepted.write_bytes(whole[:-1])
    shutil.rmtree(trained.folder / "server" / "store")
    assert trained("queue", "take").code == 4
    assert not accepted.exists()
    (trained.folder / "server" / "inbox" / "again.h5").write_bytes(whole)
    trained("queue", "take").ok()
    assert accepted.read_bytes() == whole
