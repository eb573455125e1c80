"""`ship` to a bucket, on a real S3 server on localhost."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Sltool

pytest.importorskip("s3fs", reason="needs sltool[s3]")
server = pytest.importorskip("moto.server", reason="needs moto[s3,server]")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_shards_arrive_in_the_bucket(trained: Sltool, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    s3 = server.ThreadedMotoServer(port=0, verbose=False)
    s3.start()
    try:
        host, port = s3.get_host_and_port()
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        bucket = s3fs.S3FileSystem()
        bucket.mkdir("hospital")
        done = trained("ship", "--site", "B", "--to", "s3://hospital/study", "--json").ok().json
        assert done["destination"] == "s3://hospital/study"
        for path in sorted((trained.folder / "outbox" / "B").iterdir()):
            assert bucket.cat(f"hospital/study/{path.name}") == path.read_bytes()
        again = ("ship", "--site", "B", "--to", "s3://hospital/study")
        assert "already shipped" in trained(*again).ok().out
        bucket.rm("hospital/study/B-test-00000.h5")
        bucket.pipe("hospital/study/B-train-00000.h5", b"cut")
        assert "already" not in trained(*again).ok().out
        for path in sorted((trained.folder / "outbox" / "B").iterdir()):
            assert bucket.cat(f"hospital/study/{path.name}") == path.read_bytes()
        ran = trained("ship", "--site", "B", "--to", "s3://nobodys/study")
        assert ran.code == 3
        assert "nobodys" in ran.err
        assert "Traceback" not in ran.err
    finally:
        s3.stop()


def test_what_a_missing_package_says(trained: Sltool, tmp_path: Path) -> None:
    ran = trained("ship", "--site", "B", "--to", "gs://hospital/study")
    assert ran.code == 3
    assert "another package" in ran.err
