"""A run resumes as if it had never stopped, however it was stopped."""

from __future__ import annotations

import signal
import subprocess

import pytest
import torch

from tests.server.conftest import Server, end, same, wait_until

# Enough epochs that a signal always arrives before the last.
LONG = 200_000


def unbroken(server: Server, epochs: int) -> None:
    """Train run `unbroken` to that many epochs."""
    server.sltool("server-train", "--run", "unbroken", "--max-epochs", epochs).ok()


def epochs_done(server: Server) -> int:
    path = server.run_folder() / "history.csv"
    return len(server.history()) if path.is_file() else 0


def train_and(signal_number: signal.Signals, server: Server, after: int) -> tuple[int, str]:
    """Start the run, let it do some epochs, and send the signal."""
    process: subprocess.Popen[str] = server.start("--quiet")
    wait_until(lambda: epochs_done(server) > after, f"{after} epochs")
    return end(process, signal_number)


PUBLISHED = ("history.csv", "model.safetensors")


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_weights(shipped: Server) -> None:
    """SIGKILL at two instants; the checkpoint is complete, and later epochs are repeated."""
    shipped.set_training(epochs=LONG, batch_size=4)
    code, _ = train_and(signal.SIGKILL, shipped, after=2)
    assert code == -signal.SIGKILL
    code, _ = train_and(signal.SIGKILL, shipped, after=shipped.checkpoint()["epoch"] + 2)
    assert code == -signal.SIGKILL
    epochs = shipped.checkpoint()["epoch"] + 3
    shipped.sltool("server-train", "--max-epochs", epochs).ok()
    unbroken(shipped, epochs)
    assert same(shipped.weights(), shipped.weights("unbroken"))
    resumed, expected = shipped.checkpoint(), shipped.checkpoint("unbroken")
    assert same(resumed["network"], expected["network"])
    assert resumed["best_epoch"] == expected["best_epoch"]
    for state, other in zip(
        resumed["optimizer"]["state"].values(), expected["optimizer"]["state"].values(), strict=True
    ):
        assert same(state, other)
    losses = [(row["train_loss"], row["validation_loss"]) for row in shipped.history()]
    assert losses == [
        (row["train_loss"], row["validation_loss"]) for row in shipped.history("unbroken")
    ]


@pytest.mark.parametrize(
    ("signal_number", "exit_code", "said"),
    [
        (signal.SIGTERM, 0, ""),
        (signal.SIGINT, 130, "the last checkpoint is kept. To go on: sltool server-train --quiet"),
    ],
)
def test_a_signal_ends_it_after_the_step(
    shipped: Server, signal_number: signal.Signals, exit_code: int, said: str
) -> None:
    shipped.set_training(epochs=LONG, batch_size=4)
    code, message = train_and(signal_number, shipped, after=2)
    assert code == exit_code
    assert said in message
    assert len(message.splitlines()) <= 1
    stopped = shipped.checkpoint()
    assert "stopped: " in shipped.log()
    assert "stopped: all" not in shipped.log()
    following = shipped.sltool("status", "--json").ok().json["next"]
    assert {"who": "server", "command": "sltool server-train --run default"}.items() <= {
        key: value for step in following if step["who"] == "server" for key, value in step.items()
    }.items()
    epochs = stopped["epoch"] + 2
    shipped.sltool("server-train", "--max-epochs", epochs).ok()
    unbroken(shipped, epochs)
    assert same(shipped.checkpoint()["network"], shipped.checkpoint("unbroken")["network"])


def test_a_stop_within_an_epoch_keeps_its_steps(shipped: Server) -> None:
    from sltool.cli.command import Terminal
    from sltool.server.intake.queue import Queue
    from sltool.server.training.run import train
    from sltool.server.training.run_settings import RunOptions
    from sltool.server.training.stop import Stop
    from sltool.study.study_file import load_study

    steps = 0

    def after_30_steps(self: Stop) -> bool:
        nonlocal steps
        steps += 1
        self.reason = "30 steps" if steps > 30 else ""
        return steps > 30

    unbroken(shipped, 2)
    terminal = Terminal(shipped.folder, quiet=True)
    study = load_study(terminal.folder)
    store = Queue(terminal.folder, study).store
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stop, "__call__", after_30_steps)
        done = train(
            terminal.folder, study, store, RunOptions("default"), torch.device("cpu"), terminal
        )
    assert done.stopped == "30 steps"
    checkpoint = shipped.checkpoint()
    assert checkpoint["epoch"] == 1
    assert 0 < checkpoint["step"] < 23
    shipped.sltool("server-train", "--max-epochs", 2).ok()
    assert same(shipped.weights(), shipped.weights("unbroken"))


def test_max_epochs_and_until_stop_cleanly(shipped: Server) -> None:
    first = shipped.sltool("server-train", "--max-epochs", 2, "--json").ok().json
    assert (first["epochs"], first["stopped"]) == (2, "--max-epochs 2")
    again = shipped.sltool("server-train", "--max-epochs", 2, "--json").ok().json
    assert again["epochs"] == 2
    late = shipped.sltool("server-train", "--until", "2020-01-01T06:00", "--json").ok().json
    assert (late["epochs"], late["stopped"]) == (2, "it is 2020-01-01T06:00")
    assert shipped.sltool("server-train", "--json").ok().json["epochs"] == 6


def test_resume_never_starts_another_run_and_overwrites_nothing(shipped: Server) -> None:
    shipped.sltool("server-train").ok()
    before = (shipped.run_folder() / "checkpoint.pt").read_bytes()
    for name in ("default-2", "default-3"):
        ran = shipped.sltool("server-train", "--resume", "never", "--json").ok().json
        assert (ran["run"], ran["epochs"]) == (name, 6)
    assert (shipped.run_folder() / "checkpoint.pt").read_bytes() == before
    assert same(shipped.weights(), shipped.weights("default-2"))


def test_a_run_resumes_only_with_its_own_settings(shipped: Server) -> None:
    shipped.sltool("server-train", "--max-epochs", 1).ok()
    for other in (
        ["--seed", 1],
        ["--sites", "A"],
        ["--site-weights", "equal"],
        ["--precision", "bf16"],
    ):
        ran = shipped.sltool("server-train", *other)
        assert ran.code == 2, other
        assert "was begun with" in ran.err


def test_a_damaged_checkpoint_is_named(shipped: Server) -> None:
    shipped.sltool("server-train", "--max-epochs", 1).ok()
    path = shipped.run_folder() / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:1000])
    ran = shipped.sltool("server-train")
    assert ran.code == 3
    assert "checkpoint is damaged" in ran.err


def test_the_model_carries_its_card(shipped: Server) -> None:
    import json

    shipped.sltool("server-train", "--sites", "A", "C").ok()
    card = {key: json.loads(value) for key, value in shipped.card().items()}
    run = json.loads((shipped.run_folder() / "run.json").read_text())
    assert card["sites"] == {"A": 248, "C": 35}
    assert card["shards"] == sorted(shard["digest"] for shard in run["shards"])
    assert card["study"] == run["study"]
    assert card["encoding"] == run["encoding"]
    best = shipped.history()[card["best_epoch"] - 1]
    assert card["metrics"]["validation_loss"] == float(best["validation_loss"])


def test_what_a_kill_after_the_last_checkpoint_left_unwritten_is_written(shipped: Server) -> None:
    shipped.set_training(epochs=3)
    shipped.sltool("server-train").ok()
    early = {name: (shipped.run_folder() / name).read_bytes() for name in PUBLISHED}
    shipped.set_training(epochs=4)
    shipped.sltool("server-train").ok()
    late = {name: (shipped.run_folder() / name).read_bytes() for name in PUBLISHED}
    assert all(early[name] != late[name] for name in PUBLISHED)
    for name in PUBLISHED:
        (shipped.run_folder() / name).write_bytes(early[name])
    shipped.sltool("server-train").ok()
    assert {name: (shipped.run_folder() / name).read_bytes() for name in PUBLISHED} == late
