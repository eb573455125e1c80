"""Two processes train like one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.server.conftest import PATIENCE, Server, wait_until
from tests.server.training.test_changes import patients, withdraw

TOLERANCE = 1e-4


def torchrun(server: Server, *args: object) -> subprocess.Popen[str]:
    """`torchrun --nproc-per-node 2 -m -- sltool server-train ARGS`.

    The `--` keeps torchrun from taking `--run` for an option of its own.
    """
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", "-m", "--", "sltool", "server-train", *map(str, args)),
        ],
        cwd=server.folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def losses(server: Server, run: str) -> list[float]:
    return [
        float(row[key]) for row in server.history(run) for key in ("train_loss", "validation_loss")
    ]


@pytest.mark.slow
def test_two_ranks_have_the_loss_curve_of_one_process(shipped: Server) -> None:
    """354 rows in batches of 16: the last has 2, one per rank."""
    shipped.sltool("server-train", "--run", "one").ok()
    process = torchrun(shipped, "--run", "two", "--json")
    out, message = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, message
    assert out.count('"run"') == 1, "only rank 0 prints"
    assert losses(shipped, "two") == pytest.approx(losses(shipped, "one"), rel=TOLERANCE)


def rank_pids(launcher: int) -> list[int]:
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return [int(child) for child in children]


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_job_and_it_resumes(shipped: Server) -> None:
    shipped.set_training(epochs=200_000, batch_size=4)
    process = torchrun(shipped, "--quiet")
    wait_until(lambda: (shipped.run_folder() / "history.csv").is_file(), "the first epoch")
    os.kill(rank_pids(process.pid)[1], signal.SIGKILL)
    _, message = process.communicate(timeout=PATIENCE)
    assert process.returncode != 0
    assert "another process of this job ended" in message or "exitcode: -9" in message.replace(
        " ", ""
    )
    done = shipped.checkpoint()["epoch"]
    ran = shipped.sltool("server-train", "--max-epochs", done + 1, "--json").ok().json
    assert ran["epochs"] == done + 1


@pytest.mark.slow
def test_two_ranks_follow_a_join_and_a_withdrawal_as_one_process(server: Server) -> None:
    server.sltool("ship", "--site", "A").ok()
    for name in ("one", "two"):
        server.sltool("server-train", "--run", name, "--max-epochs", 2).ok()
    withdraw(server, "A", patients(server, "A", "validation")[0])
    withdraw(server, "A", patients(server, "A", "train")[5])
    server.sltool("ship", "--site", "B").ok()
    server.sltool("server-train", "--run", "one").ok()
    process = torchrun(server, "--run", "two", "--quiet")
    _, message = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, message
    assert losses(server, "two") == pytest.approx(losses(server, "one"), rel=TOLERANCE)
    assert server.history("two")[2]["sites"] == "A=247 B=71"
    best = [server.checkpoint(name)["best_loss"] for name in ("one", "two")]
    assert best[0] == pytest.approx(best[1], rel=TOLERANCE)
