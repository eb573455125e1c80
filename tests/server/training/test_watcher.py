"""Shards that arrive while the server trains or waits."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.server.conftest import Server, end, same, wait_until

LONG = 200_000


@pytest.mark.slow
def test_a_shard_that_comes_while_training_joins_at_the_next_epoch(server: Server) -> None:
    server.set_training(epochs=LONG, batch_size=2)
    server.sltool("ship", "--site", "A").ok()
    process = server.start("--watch", "--json")
    wait_until(lambda: (server.run_folder() / "history.csv").is_file(), "the first epoch")
    server.sltool("ship", "--site", "B").ok()
    for line in ("joined B-train-00000", "accepted B-train-00000"):
        wait_until(lambda line=line: line in server.log(), line)
    wait_until(lambda: server.history()[-1]["sites"] != "A=248", "an epoch with B")
    code, _ = end(process, signal.SIGTERM)
    assert code == 0
    rows = server.history()
    joined = {name: int(row["epoch"]) for row in rows for name in row["joined"].split()}
    assert joined.keys() <= {"B-train-00000", "B-validation-00000", "B-test-00000"}
    first = joined["B-train-00000"]
    assert f"epoch {first}: joined B-train-00000" in server.log()
    assert "accepted B-train-00000" in server.log()
    assert {row["sites"] for row in rows[: first - 1]} == {"A=248"}
    assert {row["sites"] for row in rows[first - 1 :]} == {"A=248 B=71"}
    recorded, found = {1, *joined.values()}, set(server.checkpoint()["shards"].values())
    # The interrupted epoch has no line in the history yet.
    assert recorded <= found <= {*recorded, len(rows) + 1}
    goes_on_exactly(server)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="the process is found through /proc")
def test_training_says_that_nothing_is_taken_in_any_more(server: Server) -> None:
    server.set_training(epochs=LONG, batch_size=2)
    server.sltool("ship", "--site", "A").ok()
    process = server.start("--watch", "--json")
    wait_until(lambda: bool(watcher_of(process)), "the process that takes shards in")
    os.kill(watcher_of(process)[0], signal.SIGKILL)
    wait_until(lambda: "the watcher process has ended" in server.log(), "the news")
    code, stderr = end(process, signal.SIGTERM)
    assert code == 0
    assert stderr.count("no more shards are taken in") == 1


def watcher_of(process: subprocess.Popen[str]) -> list[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    commands = {int(child): Path(f"/proc/{child}/cmdline").read_bytes() for child in children}
    return [child for child, command in commands.items() if b"spawn_main" in command]


def goes_on_exactly(server: Server) -> None:
    """From the same checkpoint, twice: without interruption, and with a stop after each epoch."""
    import shutil

    shutil.copytree(server.run_folder(), server.run_folder("other"))
    epochs = server.checkpoint()["epoch"] + 2
    server.sltool("server-train", "--max-epochs", epochs).ok()
    for stop in (epochs - 1, epochs):
        server.sltool("server-train", "--run", "other", "--max-epochs", stop).ok()
    assert same(server.checkpoint()["network"], server.checkpoint("other")["network"])


def test_it_waits_for_the_sites_that_it_shall_wait_for(server: Server) -> None:
    server.sltool("ship", "--site", "A").ok()
    process = server.start("--wait-for", "A", "C", "--json")
    wait_until(lambda: (server.folder / "server/accepted/A-train-00000.h5").is_file(), "A")
    assert not server.run_folder().exists()
    server.sltool("ship", "--site", "C").ok()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert {row["sites"] for row in server.history()} == {"A=248 C=35"}


def test_waiting_ends_at_the_hour(server: Server) -> None:
    ran = server.sltool("server-train", "--wait-for", "B", "--until", "2020-01-01").ok()
    assert "stopped before" in ran.err
    assert not server.run_folder().exists()


def test_shards_that_come_between_two_calls_join_the_run(server: Server) -> None:
    server.sltool("ship", "--site", "A").ok()
    server.sltool("server-train", "--max-epochs", 2).ok()
    server.sltool("ship", "--site", "B").ok()
    server.sltool("server-train", "--max-epochs", 4).ok()
    assert [row["joined"] != "" for row in server.history()] == [False, False, True, False]
    server.sltool("ship", "--site", "C").ok()
    ran = server.sltool("server-train", "--max-epochs", 4).ok()
    assert "came after run 'default' was finished" in ran.err
    assert server.checkpoint()["epoch"] == 4
