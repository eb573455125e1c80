"""The outcome for each kind of arriving file, through the command line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from sltool.shard.keys import SigningKey
from sltool.shard.manifest import USER_BLOCK
from sltool.shard.reader import read_manifest
from sltool.study.layout import StudyFolder
from tests.conftest import ROOT, Ran, Sltool
from tests.shard.forge import Forge
from tests.shard.hostile import PAYLOADS
from tests.test_bad_input import make_images


@pytest.fixture
def forge(trained: Sltool) -> Forge:
    """Forges shards in the study that `trained` runs in."""
    return Forge(StudyFolder(trained.folder))


@pytest.fixture
def inbox(trained: Sltool) -> Path:
    folder = trained.folder / "server" / "inbox"
    folder.mkdir(exist_ok=True)
    return folder


def edit_site(forge: Forge, site: str, **values: Any) -> None:
    """Change a site's entry in study.yaml."""
    content = yaml.safe_load(forge.folder.study_file.read_text(encoding="utf-8"))
    content["sites"][site].update(values)
    forge.folder.study_file.write_text(yaml.safe_dump(content), encoding="utf-8")


def assert_refused(sltool: Sltool, path: Path, code: int, message: str) -> None:
    """`queue take PATH` refuses it with this code, and files it unchanged with the reason."""
    data = path.read_bytes()
    accepted = sorted((sltool.folder / "server" / "accepted").iterdir())
    ran = sltool("queue", "take", path)
    assert (ran.code, "Traceback" in ran.err) == (code, False), ran.err
    assert message in ran.err
    rejected = sltool.folder / "server" / "rejected"
    refused = [path for path in rejected.iterdir() if path.is_file() and path.read_bytes() == data]
    assert refused, "the refused file is unchanged"
    reason = json.loads(refused[0].with_name(refused[0].name + ".reason.json").read_text())
    assert reason["reason"] in ran.err
    assert sorted((sltool.folder / "server" / "accepted").iterdir()) == accepted
    assert message in sltool("status").ok().err


def test_a_good_shard_is_accepted_once(trained: Sltool, forge: Forge, inbox: Path) -> None:
    path = forge.shard(inbox / "good.h5")
    assert trained("queue", "verify", path).ok().out.endswith("A-train-00005.h5\n")
    again = path.read_bytes()
    assert trained("queue", "take", path, "--json").ok().json["accepted"] == ["A-train-00005.h5"]
    path.write_bytes(again)
    assert trained("queue", "take", "--json").ok().json["already"] == ["good.h5"]
    assert not list(inbox.iterdir())
    status = trained("status", "--json").ok().json
    assert {"site": "A", "split": "train", "shards": 2, "samples": 268} in status["arrived"]


def flip(place: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]

    return change


@pytest.mark.parametrize(
    "change",
    [
        *map(
            flip, (0, 20, 300, USER_BLOCK - 1, USER_BLOCK, USER_BLOCK + 2000, -1 + USER_BLOCK * 2)
        ),
        lambda data: data[:-1],
        lambda data: data[:USER_BLOCK],
        lambda data: data[:1000],
        lambda data: data + b"\0",
        lambda data: data[:5000] + data[5001:],
        lambda data: b"",
    ],
)
def test_any_changed_byte_is_refused(
    trained: Sltool, forge: Forge, tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    path = forge.shard(tmp_path / "changed.h5")
    path.write_bytes(change(path.read_bytes()))
    ran = trained("queue", "take", path)
    assert ran.code in (4, 5, 6)
    assert "Traceback" not in ran.err
    rejected = trained.folder / "server" / "rejected" / "changed.h5"
    assert rejected.read_bytes() == path.read_bytes()


def test_who_is_not_enrolled_is_refused(trained: Sltool, forge: Forge, tmp_path: Path) -> None:
    by_a = forge.shard(tmp_path / "b-by-a.h5", site="B", signer="A")
    assert_refused(trained, by_a, 5, "not enrolled for site B")
    SigningKey.load_or_create(forge.folder.site("X").key)
    unknown = forge.shard(tmp_path / "unknown.h5", site="A", signer="X")
    assert_refused(trained, unknown, 5, "not enrolled")
    pretender = forge.shard(tmp_path / "pretender.h5", signer="X", claims={"key": "0" * 16})
    assert_refused(trained, pretender, 5, "not enrolled")
    listed = read_manifest(forge.shard(tmp_path / "x.h5", sequence=6))[0].key
    liar = forge.shard(tmp_path / "liar.h5", signer="X", claims={"key": listed})
    assert_refused(trained, liar, 5, "the signature is not that of site A")
    unsigned = forge.shard(tmp_path / "unsigned.h5", sequence=7)
    block = unsigned.read_bytes().replace(b"\ned25519:", b"\nunsigned", 1)
    unsigned.write_bytes(block)
    assert_refused(trained, unsigned, 5, "signature")


def test_a_revoked_key_is_refused_from_its_day_on(
    trained: Sltool, forge: Forge, tmp_path: Path
) -> None:
    edit_site(forge, "A", revoked=date.today() + timedelta(days=1))
    trained("queue", "take", forge.shard(tmp_path / "before.h5")).ok()
    edit_site(forge, "A", revoked=date.today())
    late = forge.shard(tmp_path / "after.h5", sequence=8)
    assert_refused(trained, late, 5, "was revoked on")
    shutil.rmtree(trained.folder / "server" / "store")
    trained("queue", "take").ok()
    arrived = trained("status", "--json").ok().json["arrived"]
    assert {"site": "A", "split": "train", "shards": 2, "samples": 268} in arrived


def test_a_site_changes_its_key(trained: Sltool, forge: Forge, tmp_path: Path) -> None:
    old = forge.key("A").public
    forge.folder.site("A").key.unlink()
    new = SigningKey.load_or_create(forge.folder.site("A").key).public
    edit_site(forge, "A", key=new, earlier=[{"key": old, "revoked": date.today()}])
    shutil.rmtree(trained.folder / "server" / "store")
    trained("queue", "take", forge.shard(tmp_path / "new.h5")).ok()
    arrived = trained("status", "--json").ok().json["arrived"]
    assert {"site": "A", "split": "train", "shards": 2, "samples": 268} in arrived


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"study": "0" * 32}, "study is not"),
        ({"encoding": "0" * 64}, "encoding is not"),
        ({"feature_shape": (17,)}, "feature shape is not"),
        ({"dtype": "float32"}, "dtype is not"),
        ({"views": 2}, "views is not"),
        ({"label": "binary", "classes": 2}, "label is not"),
    ],
)
def test_what_belongs_elsewhere_is_refused(
    trained: Sltool, forge: Forge, tmp_path: Path, content: dict[str, Any], message: str
) -> None:
    assert_refused(trained, forge.shard(tmp_path / "other.h5", content=content), 6, message)


def test_same_sequence_with_other_content_is_refused_and_both_files_remain(
    trained: Sltool, forge: Forge, tmp_path: Path
) -> None:
    accepted = trained.folder / "server" / "accepted" / "A-train-00000.h5"
    before = accepted.read_bytes()
    other = forge.shard(tmp_path / "A-train-00000.h5", sequence=0)
    assert_refused(trained, other, 4, "was accepted before")
    assert accepted.read_bytes() == before


def test_a_gap_is_reported_until_it_is_filled(
    trained: Sltool, forge: Forge, tmp_path: Path
) -> None:
    first = read_manifest(trained.folder / "server" / "accepted" / "A-train-00000.h5")[0]
    duplicated = forge.shard(
        tmp_path / "1.h5",
        sequence=1,
        columns=forge.columns(seed=1),
        claims={"previous": first.digest},
    )
    claims = {"previous": read_manifest(duplicated)[0].digest}
    two = forge.shard(tmp_path / "2.h5", sequence=2, columns=forge.columns(seed=2), claims=claims)
    assert "shard 1 has not been accepted yet" in trained("queue", "take", two).ok().err
    for _ in range(2):
        assert "site A, train: shard 1 has not" in trained("status").ok().err
    trained("queue", "take", duplicated).ok()
    assert "has not been accepted" not in trained("status").ok().err


def test_another_series_is_refused(trained: Sltool, forge: Forge, tmp_path: Path) -> None:
    stranger = forge.shard(tmp_path / "1.h5", sequence=1)
    assert_refused(trained, stranger, 4, "not of the same series")


def test_hostile_payload_is_refused(trained: Sltool, forge: Forge, tmp_path: Path) -> None:
    path = forge.shard(tmp_path / "hostile.h5", PAYLOADS["short external link"])
    assert_refused(trained, path, 4, "other members than exactly features")


def test_bad_data_is_refused(trained: Sltool, forge: Forge, tmp_path: Path) -> None:
    columns = forge.columns()
    columns["features"][7, 0] = np.nan
    assert_refused(trained, forge.shard(tmp_path / "nan.h5", columns=columns), 4, "not finite")
    theirs = forge.columns(seed=9)
    trained("queue", "take", forge.shard(tmp_path / "b.h5", site="B", columns=theirs)).ok()
    columns = forge.columns(seed=10)
    columns["pseudonyms"][3] = theirs["pseudonyms"][5]
    both = forge.shard(tmp_path / "both.h5", columns=columns)
    assert_refused(trained, both, 4, "in shard 5 of site B")


def test_constant_and_outsize_features_are_quarantined_until_approved(
    trained: Sltool, forge: Forge, tmp_path: Path
) -> None:
    columns = forge.columns(seed=1)
    columns["features"][:] = columns["features"][0]
    constant = forge.shard(tmp_path / "constant.h5", columns=columns)
    columns = forge.columns(seed=2)
    columns["features"] *= 5000
    outsize = forge.shard(tmp_path / "outsize.h5", sequence=7, columns=columns)
    for path, message in [(constant, "are the same"), (outsize, "a scale")]:
        ran = trained("queue", "take", path)
        assert ran.code == 4
        assert "quarantined for approval" in ran.err
        assert f"sltool queue approve {path.name}" in ran.err
        assert message in ran.err
        assert message in trained("status").ok().err
        trained("queue", "approve", path.name).ok()
        assert message not in trained("status").ok().err
    arrived = trained("status", "--json").ok().json["arrived"]
    assert {"site": "A", "split": "train", "shards": 3, "samples": 288} in arrived
    assert not list((trained.folder / "server" / "held").iterdir())
    ran = trained("queue", "approve", "../accepted/A-train-00000.h5")
    assert ran.code == 2


def test_a_single_class_is_quarantined_and_unknown_classes_are_refused(
    sltool: Sltool, tmp_path: Path
) -> None:
    for seed, name in enumerate(("COVID", "non-COVID")):
        make_images(tmp_path / "ct" / name, 30, seed)
    sltool("prepare", "covid-ct", "--source", tmp_path / "ct", "--recipe", "paper").ok()
    sltool("partition", "--ratios", "1").ok()
    sltool("client-encode").ok()
    sltool("ship").ok()
    sltool("queue", "take").ok()
    forge = Forge(StudyFolder(sltool.folder))
    columns = forge.columns(seed=1)
    sltool("queue", "take", forge.shard(tmp_path / "good.h5", columns=columns)).ok()
    columns = forge.columns(seed=2)
    columns["labels"][:] = 1
    ran = sltool("queue", "take", forge.shard(tmp_path / "one.h5", sequence=7, columns=columns))
    assert ran.code == 4
    assert "labels are of class 1; 40 of this site's 80 so far were not" in ran.err
    for label in (2, -1):
        columns = forge.columns(seed=3)
        columns["labels"][5] = label
        path = forge.shard(tmp_path / "range.h5", sequence=9, columns=columns)
        assert_refused(sltool, path, 4, "labels out of range")


def test_odd_things_in_the_inbox_are_put_aside_and_the_good_ones_train(
    trained: Sltool, forge: Forge, inbox: Path, tmp_path: Path
) -> None:
    forge.shard(inbox / "good.h5")
    secret = forge.shard(tmp_path / "secret.h5", sequence=6, columns=forge.columns(seed=1))
    (inbox / "link.h5").symlink_to(secret)
    (inbox / "dangling.h5").symlink_to(tmp_path / "nowhere")
    os.mkfifo(inbox / "pipe.h5")
    (inbox / "folder.h5").mkdir()
    (inbox / "empty.h5").touch()
    (inbox / "long.h5".rjust(250, "x")).write_text("x")
    (inbox / "bell\a\x1b[31m.h5").write_text("x")
    (inbox / os.fsdecode(b"\xff\xfe.h5")).write_text("x")
    (inbox / "half.h5.part").write_text("x")
    (inbox / "notes.txt").write_text("x")
    ran = trained("server-train", "--run", "mixed", "--json").ok()
    assert (ran.json["accepted"], ran.json["rejected"]) == (1, 8)
    assert ran.json["samples"] == 354 + 20
    assert {path.name for path in inbox.iterdir()} == {"half.h5.part", "notes.txt"}
    assert "\a" not in ran.err
    assert "\x1b" not in ran.err
    assert secret.exists()
    assert "link.h5 was refused: the file is not a regular file" in trained("status").ok().err


@pytest.mark.parametrize("name", ["link.h5", "pipe.h5", "folder.h5"])
def test_special_files_never_block_when_named(trained: Sltool, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "pipe.h5":
        os.mkfifo(path)
    elif name == "link.h5":
        path.symlink_to("/etc/passwd")
    else:
        path.mkdir()
    for asked in ("take", "verify"):
        ran = trained("queue", asked, path)
        assert ran.code == 4
        assert "not a regular file" in ran.err


def test_a_name_in_the_manifest_cannot_leave_the_folder(
    trained: Sltool, forge: Forge, tmp_path: Path
) -> None:
    from sltool.shard.manifest import ShardId

    place = ShardId.model_construct(site="../../B", split="train", sequence=5)
    path = forge.shard(tmp_path / "up.h5", claims={"place": place})
    assert_refused(trained, path, 4, "manifest breaks the format")
    ran = trained("queue", "approve", "../inbox/x.h5")
    assert ran.code == 2


def test_a_file_that_is_still_being_copied_is_left_alone(
    trained: Sltool, forge: Forge, inbox: Path, tmp_path: Path
) -> None:
    whole = forge.shard(tmp_path / "whole.h5").read_bytes()
    arriving, done = inbox / "arriving.h5", threading.Event()

    def copy_slowly() -> None:
        with arriving.open("wb", buffering=0) as file:
            for position in range(len(whole) - 1):
                file.write(whole[position : position + 1])
                if position > 3000 and done.wait(0.02):
                    file.write(whole[position + 1 :])
                    return

    copying = threading.Thread(target=copy_slowly)
    copying.start()
    while not arriving.exists() or arriving.stat().st_size < 2000:
        time.sleep(0.01)
    ran = trained("queue", "take", "--json").ok()
    done.set()
    copying.join()
    assert ran.json["arriving"] == ["arriving.h5"]
    assert trained("queue", "take", "--json").ok().json["accepted"] == ["A-train-00005.h5"]


def test_two_servers_on_one_study(trained: Sltool) -> None:
    from sltool.server.intake.lock import only_server

    with only_server(StudyFolder(trained.folder)):
        ran: Ran = trained.run("server-train")
    assert ran.code == 2
    assert "another server is at work on this study" in ran.err
    assert f"wait for process {os.getpid()}, or stop it" in ran.err
    trained("server-train").ok()


HOLD = """
import os, signal, sys
from pathlib import Path
from sltool.study.layout import StudyFolder
from sltool.server.intake.lock import only_server
with only_server(StudyFolder(Path(sys.argv[1]))):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_server_does_not_keep_the_lock(trained: Sltool) -> None:
    killed = subprocess.run([sys.executable, "-c", HOLD, trained.folder], check=False, cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    assert (trained.folder / "server" / "lock-holder").is_file()
    trained("server-train").ok()
    assert not (trained.folder / "server" / "lock-holder").exists()


def test_one_process_locks_a_study_once(trained: Sltool) -> None:
    from sltool.errors import UsageError
    from sltool.server.intake.lock import only_server

    folder = StudyFolder(trained.folder)
    with only_server(folder):
        with pytest.raises(UsageError, match="another server"), only_server(folder):
            pass
        assert folder.lock_holder.read_text().strip() == str(os.getpid())
    with only_server(folder):
        pass


def test_nothing_but_refused_shards_says_why(trained: Sltool, forge: Forge, inbox: Path) -> None:
    for name in ("accepted", "store", "runs"):
        shutil.rmtree(trained.folder / "server" / name)
    forge.shard(inbox / "b.h5", site="B", signer="A")
    ran = trained("server-train")
    assert ran.code == 5
    assert "not enrolled for site B" in ran.err


@pytest.mark.parametrize("damage", ["store", "index.json", "test.features", "test.groups", "cut"])
def test_evaluate_rebuilds_a_deleted_store(trained: Sltool, damage: str) -> None:
    before = trained("evaluate", "--json").ok().json
    store = trained.folder / "server" / "store"
    if damage == "store":
        shutil.rmtree(store)
    elif damage == "cut":
        with (store / "test.labels").open("r+b") as file:
            file.truncate(8)
    else:
        (store / damage).unlink()
    ran = trained("evaluate", "--json").ok()
    assert ran.json == before
    assert "rebuilding the store" in ran.err
    assert len(list((trained.folder / "server" / "accepted").glob("*.h5"))) == 9
    assert "again" not in trained("evaluate").ok().err


def test_evaluate_never_rebuilds_the_store_with_another_encoding(trained: Sltool) -> None:
    """Otherwise a mistake in study.yaml would refuse every accepted shard."""
    shutil.rmtree(trained.folder / "server" / "store")
    study = trained.folder / "study.yaml"
    study.write_text(study.read_text().replace("noise: 0.0", "noise: 0.5"))
    assert trained("evaluate").code == 3
    assert len(list((trained.folder / "server" / "accepted").glob("*.h5"))) == 9
