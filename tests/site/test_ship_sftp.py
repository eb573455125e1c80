"""`ship` to an SFTP server and `queue fetch` from it, on a real sshd on localhost."""

from __future__ import annotations

import json
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Sltool
from tests.site.test_ship_s3 import check_fetching
from tests.storage_servers import sftp_server

URL = "sftp://drop-box/~/study/hospital-b"
SHIP = ("ship", "--site", "B", "--to")


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The login folder of an SFTP server that `~/.ssh/config` calls drop-box."""
    with sftp_server(monkeypatch, tmp_path / "ssh", "drop-box") as folder:
        yield folder


def test_shards_arrive_whole_and_private(trained: Sltool, inside: Path) -> None:
    done = trained(*SHIP, URL, "--json").ok().json
    assert done["sent"] == 3
    outbox = sorted((trained.folder / "outbox" / "B").iterdir())
    there = inside / "study" / "hospital-b"
    assert {path.name: path.read_bytes() for path in there.iterdir()} == {
        path.name: path.read_bytes() for path in outbox
    }
    assert {stat.S_IMODE(path.stat().st_mode) for path in there.iterdir()} == {0o600}
    assert stat.S_IMODE(there.stat().st_mode) == 0o700
    assert "already shipped" in trained(*SHIP, URL).ok().out
    (there / "B-train-00000.h5").write_bytes(b"cut")
    (there / "B-test-00000.h5").unlink()
    assert trained(*SHIP, URL, "--json").ok().json["sent"] == 2
    assert (there / "B-train-00000.h5").read_bytes() == outbox[1].read_bytes()
    check_fetching(trained, URL)


def test_an_absolute_path(trained: Sltool, inside: Path) -> None:
    trained(*SHIP, f"sftp://drop-box{inside}/absolute").ok()
    assert len(list((inside / "absolute").iterdir())) == 3


def test_a_host_whose_key_is_not_known(trained: Sltool, inside: Path) -> None:
    known = inside.parent / "home" / ".ssh" / "known_hosts"
    line = known.read_text()
    known.unlink()
    ran = trained(*SHIP, URL)
    assert ran.code == 5
    assert "log in once with `sftp HOST`" in ran.err
    other = (inside.parent / "home" / ".ssh" / "id_ed25519.pub").read_text().split()[1]
    known.write_text(f"{line.split()[0]} ssh-ed25519 {other}\n")
    ran = trained(*SHIP, URL)
    assert ran.code == 5
    assert "another than the known one" in ran.err
    assert not list(inside.iterdir())
    log = (trained.folder / "sites" / "B" / "log.jsonl").read_text().splitlines()
    assert not any(URL in line for line in log), "nothing left, so nothing is logged"


def config(inside: Path, lines: str) -> None:
    with (inside.parent / "home" / ".ssh" / "config").open("a") as file:
        file.write(lines)


def test_what_the_users_configuration_says(trained: Sltool, inside: Path) -> None:
    root = inside.parent
    known = root / "home" / ".ssh" / "known_hosts"
    known.rename(root / "known")
    config(inside, f"Host *\n  UserKnownHostsFile {root / 'known'}\n")
    trained(*SHIP, "sftp://drop-box/~").ok()
    assert len(list(inside.iterdir())) == 3
    config(inside, "Host behind\n  ProxyJump drop-box\n")
    ran = trained(*SHIP, "sftp://behind/~")
    assert ran.code == 2
    assert "proxyjump" in ran.err


def test_without_the_package(trained: Sltool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paramiko", None)
    monkeypatch.delitem(sys.modules, "sltool.sftp", raising=False)
    ran = trained(*SHIP, URL)
    assert ran.code == 3
    assert "for sftp:// sltool[sftp]" in ran.err


def test_what_is_refused(trained: Sltool, inside: Path) -> None:
    ran = trained(*SHIP, "sftp://me:secret@drop-box/~/study")
    assert ran.code == 2
    assert "secret" not in ran.err
    inside.chmod(0o700)
    (inside / "file").write_text("")
    ran = trained(*SHIP, "sftp://drop-box/~/file")
    assert ran.code == 3
    assert "Traceback" not in ran.err
    config(inside, "Host gone\n  HostName 127.0.0.1\n  Port 1\n")
    ran = trained(*SHIP, "sftp://gone/~")
    assert ran.code == 3
    assert "sftp://gone/~" in ran.err
    key = inside.parent / "home" / ".ssh" / "id_ed25519"
    key.unlink()
    key.with_suffix(".pub").rename(key.with_name("authorized"))
    ran = trained(*SHIP, URL)
    assert ran.code == 3
    assert "check the address, the path and your key" in ran.err
    assert "secret" not in json.dumps([p.read_text() for p in trained.folder.rglob("*.json*")])
