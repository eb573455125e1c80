"""Files that hold or lead to personal data are readable only by their owner, whatever the umask."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, Sltool
from tests.images import two_classes

# Files that anybody may read; all others that sltool writes are private.
PUBLIC = (
    "study.yaml",
    "privacy-layer.safetensors",
    "leaflet.html",
    "study-kit.zip",
    "?.pub",
    "server/runs/*/model.safetensors",
    "server/report/report.html",
    "server/report/results.json",
    "server/report/results.csv",
    "server/report/figures/*",
    "out/report.html",
    "out/results.json",
    "out/results.csv",
    "out/figures/*",
)
# Runs the commands in one process that looks, at every opening, renaming and change of permissions,
# at the files that were opened for writing before: none may be open to others for an instant.
WATCHED = """
import json, os, stat, sys
from pathlib import Path
from sltool.cli.main import main

here, seen, found = Path.cwd().resolve(), set(), set()

def watch(event, args):
    if event not in ("open", "os.rename", "os.chmod", "os.mkdir", "os.link"):
        return
    for path in list(seen):
        try:
            mode = os.lstat(path).st_mode
        except OSError:
            continue
        if stat.S_IMODE(mode) & 0o077:
            found.add(path)
    if event in ("open", "os.mkdir") and isinstance(args[0], str | bytes | os.PathLike):
        path = os.path.abspath(os.fsdecode(args[0]))
        if path.startswith(str(here)) and (event == "os.mkdir" or args[2] & 3):
            seen.add(path)

sys.addaudithook(watch)
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["sltool", *arguments]
    try:
        main()
    except SystemExit as end:
        if end.code:
            sys.exit(f"{arguments}: {end.code}")
print(json.dumps(sorted(os.path.relpath(path, here) for path in found)))
"""


def watched(folder: Path, *commands: list[str]) -> list[str]:
    """Run the commands under umask 0; returns the files open to others while being written."""
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, json.dumps(commands)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        umask=0,
    )
    assert done.returncode == 0, done.stderr
    loose: list[str] = json.loads(done.stdout.splitlines()[-1])
    return [path for path in loose if not is_public(path.removesuffix(".part"))]


def is_public(path: str) -> bool:
    return any(Path(path).match(pattern) for pattern in PUBLIC) and "feature-maps" not in path


def loose(folder: Path) -> list[str]:
    """Files and folders that somebody else may use and that are not public."""
    return [
        f"{stat.S_IMODE(path.lstat().st_mode):o} {path.relative_to(folder)}"
        for path in sorted(folder.rglob("*"))
        if path.lstat().st_mode & 0o077
        and not (
            path.is_file()
            and is_public(str(path.relative_to(folder)))
            and not path.lstat().st_mode & 0o022
        )
    ]


@pytest.mark.slow
def test_every_stage_under_umask_0(sltool: Sltool, tmp_path: Path) -> None:
    disk = tmp_path / "disk" / "study"
    opened = watched(
        sltool.folder,
        ["prepare", "cholesterol", "--set", "training.epochs=2"],
        ["partition", "--ratios", "7:3"],
        ["client-encode"],
        ["ship"],
        ["ship", "--site", "A", "--to", str(disk)],
        ["ship", "--site", "A", "--to", f"file://{disk.parent}/url"],
        ["queue", "take"],
        ["server-train"],
        ["evaluate"],
        ["evaluate", "--split", "validation", "--by", "site"],
        ["report"],
    )
    assert not opened
    assert not loose(sltool.folder)
    assert not loose(disk.parent)
    assert len(list(disk.parent.rglob("*.h5"))) == 6
    for name in ("study.yaml", "privacy-layer.safetensors"):
        assert stat.S_IMODE((sltool.folder / name).stat().st_mode) == 0o644


@pytest.mark.slow
def test_withdrawal_keys_and_encryption_under_umask_0(sltool: Sltool) -> None:
    pytest.importorskip("pyrage", reason="needs sltool[age]")
    watched(sltool.folder, ["prepare", "cholesterol"], ["partition", "--ratios", "7:3"])
    assert not watched(sltool.folder, ["server-keys"], ["enroll", "--site", "A"])
    recipient = sltool("server-keys", "--json").ok().json["recipient"]
    study = sltool.folder / "study.yaml"
    study.write_text(study.read_text().replace("recipient: null", f"recipient: {recipient}"))
    patient = (sltool.folder / "sites" / "A" / "pseudonyms.csv").read_text().splitlines()[1]
    opened = watched(
        sltool.folder,
        ["client-encode"],
        ["withdraw", "--site", "A", "--patient", patient.split(",")[4]],
        ["ship"],
        ["queue", "take"],
    )
    assert not opened
    assert not loose(sltool.folder)


@pytest.mark.slow
def test_reproduce_under_umask_0(sltool: Sltool) -> None:
    pytest.importorskip("matplotlib", reason="pictures need sltool[report]")
    opened = watched(
        sltool.folder,
        [
            *("reproduce", "cholesterol", "--seeds", "1", "--out", "out", "--keep"),
            *("--arms", "multi", "single:A", "pooled", "federated", "friedewald"),
            *("--set", "training.epochs=2", "model.widths=[8, 8]"),
        ],
    )
    assert not opened
    assert not loose(sltool.folder)
    cell = sltool.folder / "out" / "cells" / "base" / "seed-0"
    for name in ("records.csv", "raw/server/store/test.features", "arms/multi/predictions.csv"):
        assert stat.S_IMODE((cell / name).stat().st_mode) == 0o600


@pytest.mark.slow
def test_pictures_of_patients_are_private(sltool: Sltool, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need sltool[report]")
    two_classes(tmp_path / "ct", 30, ("COVID", "non-COVID"))
    opened = watched(
        sltool.folder,
        [
            *("reproduce", "covid-ct", "--source", str(tmp_path / "ct"), "--seeds", "1"),
            *("--out", "out", "--arms", "multi"),
            *("--set", "training.epochs=1", "dataset.size=32", "encoding.views=1"),
        ],
    )
    assert not opened
    for name in ("figures/feature-maps.png", "figures/feature-maps.svg", "report.html"):
        assert stat.S_IMODE((sltool.folder / "out" / name).stat().st_mode) == 0o600


def test_files_that_others_put_into_the_inbox_become_private(trained: Sltool) -> None:
    """A shard that was copied with cp, and one that is refused."""
    inbox, accepted = trained.folder / "server" / "inbox", trained.folder / "server" / "accepted"
    shard = accepted / "A-train-00000.h5"
    shard.rename(inbox / shard.name)
    (inbox / shard.name).chmod(0o666)
    (inbox / "B-train-00001.h5").write_text("nonsense")
    (inbox / "B-train-00001.h5").chmod(0o666)
    os.utime(inbox / "B-train-00001.h5", (0, 0))
    trained("queue", "take")
    assert stat.S_IMODE(shard.stat().st_mode) == 0o600
    refused = trained.folder / "server" / "rejected" / "B-train-00001.h5"
    assert stat.S_IMODE(refused.stat().st_mode) == 0o600


def test_a_store_of_an_older_study_is_closed(trained: Sltool) -> None:
    store = trained.folder / "server" / "store" / "train.features"
    store.chmod(0o644)
    inbox, accepted = trained.folder / "server" / "inbox", trained.folder / "server" / "accepted"
    (accepted / "A-train-00000.h5").rename(inbox / "A-train-00000.h5")
    trained("queue", "take").ok()
    assert stat.S_IMODE(store.stat().st_mode) == 0o600
