"""`ship` to a bucket and `queue fetch` from it, on a real S3 server on localhost."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conftest import Sltool
from tests.storage_servers import s3_server

URL = "s3://hospital/study"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_shards_arrive_in_the_bucket(trained: Sltool, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server(monkeypatch, "hospital"):
        import s3fs

        bucket = s3fs.S3FileSystem()
        done = trained("ship", "--site", "B", "--to", URL, "--json").ok().json
        assert done["destination"] == URL
        for path in sorted((trained.folder / "outbox" / "B").iterdir()):
            assert bucket.cat(f"hospital/study/{path.name}") == path.read_bytes()
        again = ("ship", "--site", "B", "--to", URL)
        assert "already shipped" in trained(*again).ok().out
        bucket.rm("hospital/study/B-test-00000.h5")
        bucket.pipe("hospital/study/B-train-00000.h5", b"cut")
        assert "already" not in trained(*again).ok().out
        for path in sorted((trained.folder / "outbox" / "B").iterdir()):
            assert bucket.cat(f"hospital/study/{path.name}") == path.read_bytes()
        check_fetching(trained, URL)
        bucket.pipe("hospital/study/B-train-00000.h5", b"cut")
        assert trained("queue", "fetch", URL, "--json").ok().json["fetched"] == [
            "B-train-00000.h5"
        ], "what has changed there is fetched again"
        ran = trained("ship", "--site", "B", "--to", "s3://nobodys/study")
        assert ran.code == 3
        assert "nobodys" in ran.err
        assert "Traceback" not in ran.err
        assert trained("queue", "fetch", "s3://nobodys/study").code == 3


def check_fetching(sltool: Sltool, url: str) -> None:
    """A server that has nothing yet takes in what site B shipped to `url`."""
    shutil.rmtree(sltool.folder / "server")
    shipped = sorted(path.name for path in (sltool.folder / "outbox" / "B").iterdir())
    done = sltool("queue", "fetch", url, "--json").ok().json
    assert done == {"source": url, "fetched": shipped, "fetched_before": 0}
    inbox = sltool.folder / "server" / "inbox"
    assert {path.stat().st_mode & 0o777 for path in inbox.iterdir()} == {0o600}
    assert sorted(sltool("queue", "take", "--json").ok().json["accepted"]) == shipped
    again = sltool("queue", "fetch", url).ok().out
    assert again == f"0 fetched from {url}, 3 fetched before\n"


def test_a_disk_that_two_hospitals_filled(trained: Sltool, tmp_path: Path) -> None:
    """Only shards and withdrawals are fetched, and no file replaces another in the inbox."""
    disk = tmp_path / "disk"
    trained("ship", "--site", "B", "--to", disk).ok()
    (disk / "study.yaml").write_text("id: another\n")
    (disk / "B-test-00002.h5").symlink_to(trained.folder / "study.yaml")
    (disk / "B-test-00001.h5.part").write_bytes(b"half a")
    check_fetching(trained, str(disk))
    inbox = trained.folder / "server" / "inbox"
    (inbox / "A-train-00000.h5").write_bytes(b"one")
    (disk / "A-train-00000.h5").write_bytes(b"another")
    trained("queue", "fetch", disk).ok()
    assert sorted(path.read_bytes() for path in inbox.iterdir()) == [b"another", b"one"]
    ran = trained("queue", "fetch", tmp_path / "absent")
    assert ran.code == 3
    assert "absent" in ran.err


def test_what_a_missing_package_says(trained: Sltool) -> None:
    ran = trained("ship", "--site", "B", "--to", "gs://hospital/study")
    assert ran.code == 3
    assert "another package" in ran.err


def test_a_folder_without_a_study(sltool: Sltool, tmp_path: Path) -> None:
    assert sltool("queue", "fetch", tmp_path).code == 2
    assert not list(sltool.folder.iterdir())
