"""Mistakes that users make: a clear message, the documented exit code, and nothing lost."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.conftest import ROOT, Ran, Sltool


def refused(ran: Ran, code: int, *message: str) -> None:
    """The run ended with this code and printed all of these, without a traceback."""
    assert ran.code == code, ran.err
    for text in message:
        assert text in ran.err
    assert "Traceback" not in ran.err


def make_images(folder: Path, count: int, seed: int = 0) -> None:
    """Small images of mixed size and mode, as in a hospital's export."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for n in range(count):
        size = (20 + n % 7, 30 + n % 5)
        picture = Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8))
        picture.convert(("L", "RGB", "LA", "P")[n % 4]).save(folder / f"{n}.png")


@pytest.fixture
def ct(tmp_path: Path) -> Path:
    """A CT source of 30 + 30 synthetic slices."""
    make_images(tmp_path / "ct" / "COVID", 30)
    make_images(tmp_path / "ct" / "non-COVID", 30, seed=1)
    return tmp_path / "ct"


@pytest.mark.parametrize(
    ("stage", "first"),
    [
        ("partition", "prepare"),
        ("client-encode", "partition"),
        ("ship", "partition"),
        ("server-train", "client-encode"),
        ("evaluate", "server-train"),
        ("compare", "server-train"),
    ],
)
def test_stages_out_of_order_say_which_to_run_first(sltool: Sltool, stage: str, first: str) -> None:
    refused(sltool(stage), 2, "study.yaml" if stage != "compare" else "no run")
    sltool("prepare", "cholesterol").ok()
    (sltool.folder / "prepared.h5").unlink()
    refused(sltool(stage), 2, f"sltool {first}")


def test_ship_before_encode(sltool: Sltool) -> None:
    sltool("prepare", "cholesterol").ok()
    sltool("partition").ok()
    refused(sltool("ship", "--site", "B"), 2, "client-encode --site B")


def test_no_dataset_named(sltool: Sltool) -> None:
    refused(sltool("prepare"), 2, "sltool list datasets")


def test_unknown_dataset(sltool: Sltool) -> None:
    refused(sltool("prepare", "colesterol"), 2, "did you mean 'cholesterol'?")


def test_wrong_folder(sltool: Sltool, tmp_path: Path, ct: Path) -> None:
    refused(sltool("prepare", "covid-ct", "--source", tmp_path / "no"), 3, "does not exist")
    refused(sltool("prepare", "covid-ct", "--source", ct / "COVID"), 3, "class folder")
    refused(sltool("prepare", "covid-ct"), 2, "--source")


def test_no_image_at_all_and_a_missing_class_folder(sltool: Sltool, ct: Path) -> None:
    for path in ct.glob("*/*"):
        path.unlink()
    refused(sltool("prepare", "covid-ct", "--source", ct), 3, "no usable sample")
    (ct / "COVID").rmdir()
    ran = sltool("prepare", "covid-ct", "--source", ct)
    refused(ran, 3, "class folders", "there is: non-COVID")
    assert not (sltool.folder / "prepared.h5").exists()


def test_unreadable_files_are_named_and_more_than_1_percent_is_an_error(
    sltool: Sltool, ct: Path
) -> None:
    make_images(ct / "COVID" / "more", 150)
    (ct / "COVID" / "text.png").write_text("no picture")
    ran = sltool("prepare", "covid-ct", "--source", ct).ok()
    assert "refused COVID/text.png: not an image" in ran.out
    assert "1 refused" in ran.out
    whole = (ct / "COVID" / "0.png").read_bytes()
    for n in range(3):
        (ct / "COVID" / f"cut{n}.png").write_bytes(whole[: len(whole) // 2])
    ran = sltool("prepare", "covid-ct", "--source", ct, "--force")
    refused(ran, 3, "4 of 214 files cannot be read", "at most 1%")
    assert (sltool.folder / "prepared.h5").exists(), "the earlier result is not lost"


def test_missing_column(sltool: Sltool, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    pd.DataFrame({"age": [40], "TC": [180], "HDL": [50], "TG": [100]}).to_csv(table, index=False)
    refused(sltool("prepare", "cholesterol", "--source", table), 3, "no column 'LDL'", "headers")
    table.write_text("")
    refused(sltool("prepare", "cholesterol", "--source", table), 3, "not a CSV table")


@pytest.mark.parametrize(
    ("ratios", "message"),
    [("7:2:x", "do not parse"), ("0:1", "do not parse"), ("100000:1", "no training sample")],
)
def test_ratios(sltool: Sltool, ratios: str, message: str) -> None:
    sltool("prepare", "cholesterol").ok()
    refused(sltool("partition", "--ratios", ratios), 2, message)
    assert not (sltool.folder / "sites").exists()
    sltool("partition").ok()


def test_unknown_site(trained: Sltool) -> None:
    for stage in ("client-encode", "ship"):
        refused(trained(stage, "--site", "D"), 2, "unknown site 'D'", "one of A, B, C")
    refused(trained("server-train", "--sites", "A", "D"), 2, "unknown site 'D'")
    refused(trained("evaluate", "--run", "dfault"), 2, "unknown run 'dfault'", "default")
    refused(trained("compare", "dfault"), 2, "did you mean 'default'?")


def test_a_second_study_in_the_same_folder(trained: Sltool, ct: Path) -> None:
    before = (trained.folder / "study.yaml").read_bytes()
    ran = trained("prepare", "covid-ct", "--source", ct)
    refused(ran, 6, "a study of the dataset 'cholesterol', not 'covid-ct'", "new folder")
    assert (trained.folder / "study.yaml").read_bytes() == before


def test_other_ratios_need_force(trained: Sltool) -> None:
    refused(trained("partition", "--ratios", "1:1"), 2, "--force", "pseudonyms")


def test_a_changed_encoding_is_refused_by_the_server(trained: Sltool) -> None:
    path = trained.folder / "study.yaml"
    path.write_text(path.read_text().replace("noise: 0.0", "noise: 0.1"))
    refused(trained("evaluate"), 3, "encoding.noise is 0.1, and was 0.0")


def test_another_sites_key_is_refused(trained: Sltool) -> None:
    key = trained.folder / "sites" / "B" / "key"
    key.write_text((trained.folder / "sites" / "A" / "key").read_text())
    refused(trained("client-encode", "--site", "B", "--force"), 6, "key of site B")


def test_a_shard_with_a_flipped_bit_is_refused(sltool: Sltool) -> None:
    sltool("prepare", "cholesterol", "--set", "training.epochs=2").ok()
    sltool("partition").ok()
    sltool("client-encode").ok()
    sltool("ship").ok()
    shard = sltool.folder / "server" / "inbox" / "B-train-00000.h5"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    ran = sltool("server-train", "--json").ok()
    assert (ran.json["accepted"], ran.json["rejected"]) == (8, 1)
    assert "B-train-00000.h5 was refused" in ran.err
    assert (sltool.folder / "server" / "rejected" / "B-train-00000.h5").read_bytes() == content


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_no_write_permission(trained: Sltool) -> None:
    """Root may write anywhere, so the command runs as nobody."""
    trained("evaluate").ok()
    temporary = Path(tempfile.gettempdir())
    above = [path for path in trained.folder.parents if temporary in path.parents]
    for path in [*above, trained.folder, *trained.folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    os.seteuid(65534)
    try:
        ran = trained("evaluate")
    finally:
        os.seteuid(0)
    refused(ran, 3, "Permission denied", "permissions", "predictions.csv")


def test_no_space(sltool: Sltool) -> None:
    """A limit on the size of files simulates a full disk: the write fails half-way."""
    sltool("prepare", "cholesterol").ok()
    sltool("partition").ok()

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))

    done = subprocess.run(
        [sys.executable, "-m", "sltool", "client-encode", "--site", "A"],
        cwd=sltool.folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=small,
        capture_output=True,
        text=True,
        check=False,
    )
    refused(Ran(done.returncode, done.stdout, done.stderr), 3, "A-train-00000.h5")
    assert list((sltool.folder / "outbox" / "A").iterdir()) == []
    sltool("client-encode", "--site", "A").ok()


def test_a_damaged_record_is_named(trained: Sltool) -> None:
    (trained.folder / "sites" / "A" / "encoded.json").write_text("{")
    refused(trained("client-encode", "--site", "A"), 3, "encoded.json", "delete")


def test_finished_stages_are_skipped(trained: Sltool) -> None:
    files: Callable[[], dict[Path, bytes]] = lambda: {  # noqa: E731
        path: path.read_bytes() for path in trained.folder.rglob("*") if path.is_file()
    }
    before = files()
    for stage in ("prepare", "partition", "client-encode", "ship", "server-train"):
        assert "already" in trained(stage).ok().out + trained(stage).ok().err
    assert files() == before
