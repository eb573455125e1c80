"""Encryption for transport: only the server can read what is shipped."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Sltool

pytest.importorskip("pyrage", reason="the extra `age` is not installed")


@pytest.fixture
def secret(trained: Sltool) -> Sltool:
    """A study whose server has an identity and an empty inbox."""
    shutil.rmtree(trained.folder / "server")
    recipient = trained("server-keys", "--json").ok().json["recipient"]
    assert trained("server-keys", "--json").ok().json["recipient"] == recipient
    study = trained.folder / "study.yaml"
    study.write_text(study.read_text().replace("  recipient: null", f"  recipient: {recipient}"))
    (trained.folder / "sites" / "A" / "shipped.json").unlink()
    return trained


def test_shards_travel_encrypted_and_are_accepted(secret: Sltool) -> None:
    secret("ship", "--site", "A", "--force").ok()
    inbox = secret.folder / "server" / "inbox"
    names = sorted(path.name for path in inbox.iterdir())
    assert names == [f"A-{split}-00000.h5.age" for split in ("test", "train", "validation")]
    assert all(b"sltool-shard" not in path.read_bytes() for path in inbox.iterdir())
    assert "already" in secret("ship", "--site", "A").ok().out
    taken = secret("queue", "take", "--json").ok().json
    assert len(taken["accepted"]) == 3
    assert not list(inbox.iterdir())
    for path in (secret.folder / "outbox" / "A").iterdir():
        accepted = secret.folder / "server" / "accepted" / path.name
        assert accepted.read_bytes() == path.read_bytes()
    assert not list(secret.folder.rglob("*.age"))
    identity = secret.folder / "server" / "identity"
    assert stat.S_IMODE(identity.stat().st_mode) == 0o600


def test_damaged_or_for_another_server(secret: Sltool) -> None:
    secret("ship", "--site", "A", "--to", "road").ok()
    path = secret.folder / "road" / "A-train-00000.h5.age"
    whole = path.read_bytes()
    for data in (whole[:-1], whole[: len(whole) // 2], whole[:-9] + b"x" + whole[-8:], b"x", b""):
        path.write_bytes(data)
        ran = secret("queue", "take", path)
        assert ran.code == 4
        assert "cannot be decrypted" in ran.err
    decrypted = secret.folder / "server" / "decrypted"
    assert not list(decrypted.glob("*")), "no partial plaintext is left"
    path.write_bytes(whole)
    (secret.folder / "server" / "identity").unlink()
    ran = secret("queue", "take", path)
    assert ran.code == 2
    assert "no identity" in ran.err
    secret("server-keys").ok()
    assert secret("queue", "take", path).code == 4


def test_memory_does_not_grow_with_the_file(secret: Sltool, tmp_path: Path) -> None:
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(400 * 2**20)
    code = (
        "import sys, resource; from pathlib import Path; from sltool.shard import encryption\n"
        "source, study = Path(sys.argv[1]), Path(sys.argv[2])\n"
        "to = encryption.make_identity(study / 'server/identity')\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "encryption.encrypt(source, source.with_suffix('.age'), to)\n"
        "encryption.decrypt(source.with_suffix('.age'), source.with_suffix('.out'),"
        " study / 'server/identity')\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    asked = [sys.executable, "-c", code, str(big), str(secret.folder)]
    done = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=120)
    assert int(done.stdout) * 1024 < 64 * 2**20
    assert big.with_suffix(".out").stat().st_size == big.stat().st_size


def test_encrypted_files_at_the_destination_are_recognised(secret: Sltool, tmp_path: Path) -> None:
    disk = tmp_path / "usb"
    ship = ("ship", "--site", "B", "--to", disk)
    secret(*ship).ok()
    assert "already shipped" in secret(*ship).ok().out
    disk.rename(tmp_path / "the first disk")
    assert "already" not in secret(*ship).ok().out
    (disk / "B-test-00000.h5.age").write_bytes(b"damaged")
    (disk / "B-train-00000.h5.age").unlink()
    assert "already" not in secret(*ship).ok().out
    inbox = secret.folder / "server" / "inbox"
    inbox.mkdir(parents=True)
    for path in list(disk.iterdir()):
        path.rename(inbox / path.name)
    assert len(secret("queue", "take", "--json").ok().json["accepted"]) == 3
    assert "already shipped" in secret("ship", "--site", "B").ok().out


def test_a_damaged_identity_is_reported_and_no_file_is_refused(secret: Sltool) -> None:
    secret("ship", "--site", "B").ok()
    identity = secret.folder / "server" / "identity"
    for damage in (b"", b"\xff\xfe", b"AGE-SECRET-KEY-1"):
        identity.write_bytes(damage)
        ran = secret("queue", "take")
        assert ran.code == 4
        assert "age identity" in ran.err
        assert len(list((secret.folder / "server" / "inbox").iterdir())) == 3


def test_private_keys_are_never_copied(secret: Sltool) -> None:
    secret("ship", "--force").ok()
    secret("server-train").ok()
    for private in [*secret.folder.glob("sites/*/key"), secret.folder / "server" / "identity"]:
        assert stat.S_IMODE(private.stat().st_mode) == 0o600
        text = private.read_bytes().strip()
        others = [path for path in secret.folder.rglob("*") if path.is_file() and path != private]
        assert not [path for path in others if text in path.read_bytes()]
