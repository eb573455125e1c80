"""A run whose loss is not finite ends with an error and keeps its last finite state."""

from __future__ import annotations

import json
import math

import pytest
import torch

from tests.server.conftest import PATIENCE, Server
from tests.server.training.test_distributed import torchrun

DIVERGED = 7


def too_fast(server: Server, rate: float = 1e3, **more: object) -> None:
    """SGD with a learning rate that makes the weights diverge; one step per epoch."""
    server.set_training(
        epochs=50, batch_size=1000, optimizer="sgd", learning_rate=rate, schedule="constant", **more
    )


def is_good(server: Server, name: str = "default") -> None:
    """The remaining checkpoint is finite and belongs to the last epoch in the history."""
    checkpoint = server.checkpoint(name)
    for state in (checkpoint["network"], checkpoint["best"]):
        assert all(torch.isfinite(value).all() for value in state.values())
    rows = server.history(name)
    assert checkpoint["epoch"] == len(rows) >= 1
    assert all(math.isfinite(float(row[key])) for row in rows for key in row if "loss" in key)


def test_it_says_from_which_step_on_and_what_to_try(shipped: Server) -> None:
    too_fast(shipped)
    ran = shipped.sltool("server-train")
    assert ran.code == DIVERGED
    done = shipped.checkpoint()["epoch"]
    assert f"from epoch {done + 1}, step 1 on" in ran.err
    for words in ("training.learning_rate", "1000", "training.clip_gradient", "--run", "--force"):
        assert words in ran.err
    assert "Traceback" not in ran.err
    assert "diverged" in shipped.log()


def test_the_last_good_checkpoint_and_model_stay_and_can_be_used(shipped: Server) -> None:
    too_fast(shipped)
    assert shipped.sltool("server-train").code == DIVERGED
    is_good(shipped)
    shipped.sltool("evaluate").ok()
    best = json.loads(shipped.card()["best_epoch"])
    losses = [float(row["validation_loss"]) for row in shipped.history()]
    assert losses[best - 1] == min(losses)
    before = (shipped.run_folder() / "checkpoint.pt").read_bytes()
    assert shipped.sltool("server-train").code == DIVERGED
    assert (shipped.run_folder() / "checkpoint.pt").read_bytes() == before
    done = len(losses)
    ran = shipped.sltool("server-train", "--max-epochs", done, "--json").ok()
    assert ran.json["epochs"] == done


def test_nothing_is_left_to_use_when_the_first_epoch_diverges(shipped: Server) -> None:
    too_fast(shipped, rate=1e30)
    ran = shipped.sltool("server-train")
    assert ran.code == DIVERGED
    assert "no epoch" in ran.err
    assert not (shipped.run_folder() / "checkpoint.pt").exists()
    assert shipped.sltool("evaluate").code == 2


def test_weights_that_break_in_the_last_step_are_seen_without_validation(server: Server) -> None:
    """The loss of the step that makes them infinite is still finite."""
    server.sltool("ship", "--site", "A").ok()
    for path in (server.folder / "server/inbox").glob("A-validation*"):
        path.unlink()
    too_fast(server)
    assert server.sltool("server-train").code == DIVERGED
    is_good(server)


def test_a_long_epoch_is_not_trained_to_its_end(shipped: Server) -> None:
    shipped.set_training(epochs=3, batch_size=1, optimizer="sgd", learning_rate=1e30)
    ran = shipped.sltool("server-train", "--verbose")
    assert ran.code == DIVERGED
    step = int(ran.err.split("epoch 1, step ")[1].split()[0])
    assert step < 10, "the first bad step is reported, not the step at which it was detected"


def test_a_stop_within_an_epoch_saves_no_broken_weights(shipped: Server) -> None:
    from sltool.cli.command import Terminal
    from sltool.errors import DivergedError
    from sltool.server.intake.queue import Queue
    from sltool.server.training.run import train
    from sltool.server.training.run_settings import RunOptions
    from sltool.server.training.stop import Stop
    from sltool.study.study_file import load_study

    shipped.set_training(epochs=3, batch_size=1, optimizer="sgd", learning_rate=1e30)
    shipped.sltool("queue", "take").ok()
    steps = 0

    def after_20_steps(self: Stop) -> bool:
        nonlocal steps
        steps += 1
        self.reason = "20 steps" if steps > 20 else ""
        return steps > 20

    terminal = Terminal(shipped.folder, quiet=True)
    study = load_study(terminal.folder)
    store = Queue(terminal.folder, study).store
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stop, "__call__", after_20_steps)
        with pytest.raises(DivergedError):
            train(
                terminal.folder, study, store, RunOptions("default"), torch.device("cpu"), terminal
            )
    assert not (shipped.run_folder() / "checkpoint.pt").exists()


def test_a_run_that_learns_is_no_divergence(shipped: Server) -> None:
    shipped.set_training(epochs=3)
    shipped.sltool("server-train").ok()
    is_good(shipped)


@pytest.mark.slow
def test_all_ranks_end(shipped: Server) -> None:
    too_fast(shipped)
    process = torchrun(shipped, "--quiet")
    _, message = process.communicate(timeout=PATIENCE)
    assert process.returncode != 0
    assert "training diverged" in message
    assert "another process of this job ended" not in message
    is_good(shipped)
    assert (shipped.run_folder() / "model.safetensors").is_file()
