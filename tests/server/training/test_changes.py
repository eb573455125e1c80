"""The samples change during a run: a site joins, a patient withdraws, or both."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

from sltool.models.base import outline
from sltool.server.intake.queue import Queue
from sltool.server.training.objective import Objective
from sltool.server.training.trainer import predict
from sltool.study.layout import StudyFolder
from sltool.study.study_file import load_study
from tests.server.conftest import Server, same

# A learning rate at which float32 weights do not change: the loss changes with the samples alone.
STILL = 1e-30


def card(server: Server, name: str = "default") -> dict[str, object]:
    return {key: json.loads(value) for key, value in server.card(name).items()}


def loss_now(server: Server, name: str = "default") -> float:
    """The published weights' loss on the current validation samples."""
    folder = StudyFolder(server.folder)
    study = load_study(folder)
    network = outline(study).server_network
    network.load_state_dict(server.weights(name), assign=True)
    samples = Queue(folder, study).store.samples("validation")
    outputs = predict(network, samples, torch.device("cpu"))
    return Objective(study.samples.labels, study.training).loss(outputs, samples.labels).item()


def validation_losses(server: Server, name: str = "default") -> list[float]:
    return [float(row["validation_loss"]) for row in server.history(name)]


def patients(server: Server, site: str, split: str) -> list[str]:
    with (server.folder / "sites" / site / "pseudonyms.csv").open() as file:
        return [row["patient"] for row in csv.DictReader(file) if row["split"] == split]


def pseudonym_of(server: Server, site: str, patient: str) -> str:
    with (server.folder / "sites" / site / "pseudonyms.csv").open() as file:
        rows = list(csv.DictReader(file))
    return next(row["pseudonym"] for row in rows if row["patient"] == patient)


def withdraw(server: Server, site: str, patient: str) -> None:
    server.sltool("withdraw", "--site", site, "--patient", patient).ok()
    server.sltool("ship", "--site", site).ok()


def join(server: Server, site: str) -> None:
    server.sltool("ship", "--site", site).ok()


def hold_back(server: Server, pattern: str) -> list[tuple[Path, bytes]]:
    """Take files out of the inbox, as if they had not arrived yet."""
    files = [(path, path.read_bytes()) for path in (server.folder / "server/inbox").glob(pattern)]
    assert files
    for path, _ in files:
        path.unlink()
    return files


def ahead(server: Server, name: str = "default") -> set[str]:
    """The samples that were drawn once more than the others of their site."""
    taken = server.checkpoint(name)["taken"]
    return {bytes(row).decode() for row in taken.numpy()}


def test_the_best_is_measured_on_the_validation_samples_of_now(server: Server) -> None:
    join(server, "A")
    server.sltool("server-train", "--max-epochs", 5).ok()
    join(server, "B")
    server.sltool("server-train", "--max-epochs", 6).ok()
    after = validation_losses(server)[5]
    published = card(server)["metrics"]
    assert published["validation_loss"] == pytest.approx(loss_now(server), rel=1e-5)
    assert published["validation_loss"] <= after
    assert "has validation loss" in server.log()


@pytest.mark.parametrize("split", ["train", "validation"])
def test_patience_starts_over_when_the_samples_change(server: Server, split: str) -> None:
    server.set_training(epochs=50, learning_rate=STILL, patience=3)
    join(server, "A")
    server.sltool("server-train", "--max-epochs", 3).ok()
    withdraw(server, "A", patients(server, "A", split)[0])
    ran = server.sltool("server-train", "--json").ok().json
    assert ran["epochs"] == 6
    assert ran["stopped"] == "no lower validation loss since epoch 3"
    assert server.sltool("server-train", "--json").ok().json["epochs"] == 6


def test_a_lower_loss_on_other_samples_is_no_better_epoch(server: Server) -> None:
    """The weights do not change, so the first epoch stays the best."""
    server.set_training(learning_rate=STILL, epochs=50)
    for first, second in (("A", "B"), ("B", "A")):
        name = first + second
        for path in (server.folder / "server").glob("*/*"):
            if path.is_file():
                path.unlink()
        server.sltool("ship", "--site", first, "--force").ok()
        server.sltool("server-train", "--run", name, "--max-epochs", 2).ok()
        server.sltool("ship", "--site", second, "--force").ok()
        ran = server.sltool("server-train", "--run", name, "--max-epochs", 4, "--json").ok()
        assert ran.json["best_epoch"] == 1
        losses = validation_losses(server, name)
        assert losses[0] != losses[2]
        assert card(server, name)["metrics"]["validation_loss"] == losses[2]


def test_balanced_classes_are_part_of_what_is_compared() -> None:
    """The class weights depend on the training labels, and the loss on the class weights."""
    from sltool.server.training.data import Basis, TrainingData
    from sltool.study.schema import Labels, Training
    from tests.server.training.test_sampler import samples_of

    objective = Objective(
        Labels(kind="binary", classes=("a", "b")), Training(class_weights="balanced")
    )
    data = TrainingData(samples_of({"A": 4}), samples_of({"A": 2}))
    found = []
    for labels in ([0, 0, 0, 1], [0, 1, 0, 1]):
        objective.balance(torch.tensor(labels))
        found.append(Basis.from_data(data, objective))
    assert found[0].validation != found[1].validation


def test_the_card_lists_the_sites_that_the_weights_were_trained_on(server: Server) -> None:
    server.set_training(learning_rate=STILL)
    join(server, "A")
    server.sltool("server-train", "--max-epochs", 2).ok()
    join(server, "B")
    ran = server.sltool("server-train", "--max-epochs", 4).ok()
    shards = {shard["shard"]: shard["digest"] for shard in run_record(server)["shards"]}
    seen = ("A-train-00000", "A-validation-00000", "B-validation-00000")
    assert card(server)["sites"] == {"A": 248}
    assert card(server)["shards"] == sorted(shards[name] for name in seen)
    assert "B joined after epoch 1" in ran.err


def run_record(server: Server) -> dict[str, list[dict[str, object]]]:
    loaded: dict[str, list[dict[str, object]]] = json.loads(
        (server.run_folder() / "run.json").read_text()
    )
    return loaded


def test_validation_samples_may_come_later_and_go(server: Server) -> None:
    join(server, "A")
    late = hold_back(server, "A-validation*")
    assert "no validation sample" in server.sltool("server-train", "--max-epochs", 2).ok().err
    assert card(server)["best_epoch"] == 2
    for path, content in late:
        path.write_bytes(content)
    server.sltool("server-train", "--max-epochs", 4).ok()
    assert card(server)["metrics"]["validation_loss"] == pytest.approx(loss_now(server), rel=1e-5)
    for patient in patients(server, "A", "validation"):
        server.sltool("withdraw", "--site", "A", "--patient", patient).ok()
    server.sltool("ship", "--site", "A").ok()
    assert "no validation sample" in server.sltool("server-train", "--max-epochs", 6).ok().err
    assert card(server)["best_epoch"] == 6


@pytest.mark.parametrize("changes", ["withdrawal", "join", "both"])
def test_draw_counts_survive_a_change_of_samples(server: Server, changes: str) -> None:
    """100 of A's 248 per epoch: no sample is drawn again before all have been drawn."""
    go = ("server-train", "--max-samples-per-site", 100, "--max-epochs")
    join(server, "A")
    server.sltool(*go, 1).ok()
    first = ahead(server)
    assert len(first) == 100
    gone: set[str] = set()
    if changes != "join":
        # In the middle, so that all later samples change their positions.
        patient = patients(server, "A", "train")[100]
        gone = {pseudonym_of(server, "A", patient)}
        withdraw(server, "A", patient)
    if changes != "withdrawal":
        join(server, "B")
    server.sltool(*go, 2).ok()
    second = ahead(server) - of_site(server, "B")
    assert first - gone < second
    assert len(second - first) == 100
    assert server.history()[1]["sites"] == ("A=100" if changes == "withdrawal" else "A=100 B=71")


def of_site(server: Server, site: str) -> set[str]:
    with (server.folder / "sites" / site / "pseudonyms.csv").open() as file:
        return {row["pseudonym"] for row in csv.DictReader(file)}


@pytest.mark.parametrize("changes", ["withdrawal", "join", "both"])
def test_interrupted_runs_end_with_the_same_weights(server: Server, changes: str) -> None:
    import shutil

    join(server, "A")
    for name in ("one", "two"):
        server.sltool("server-train", "--run", name, "--max-epochs", 2).ok()
    if changes != "join":
        withdraw(server, "A", patients(server, "A", "train")[100])
    if changes != "withdrawal":
        join(server, "B")
    shutil.copytree(server.folder / "server/inbox", server.folder / "inbox-before")
    server.sltool("server-train", "--run", "one", "--max-epochs", 5).ok()
    for epochs in (3, 4, 5):
        server.sltool("server-train", "--run", "two", "--max-epochs", epochs).ok()
    assert same(server.checkpoint("one")["network"], server.checkpoint("two")["network"])
    assert same(server.weights("one"), server.weights("two"))
    assert card(server, "one")["metrics"] == card(server, "two")["metrics"]


def test_an_unfinished_epoch_restarts_after_a_withdrawal(shipped: Server) -> None:
    """The weights do not change, so a complete epoch has the loss of the next."""
    from sltool.cli.command import Terminal
    from sltool.server.training.run import train
    from sltool.server.training.run_settings import RunOptions
    from sltool.server.training.stop import Stop

    shipped.set_training(learning_rate=STILL)
    steps = 0

    def after_30_steps(self: Stop) -> bool:
        nonlocal steps
        steps += 1
        self.reason = "30 steps" if steps > 30 else ""
        return steps > 30

    shipped.sltool("queue", "take").ok()
    terminal = Terminal(shipped.folder, quiet=True)
    study = load_study(terminal.folder)
    store = Queue(terminal.folder, study).store
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stop, "__call__", after_30_steps)
        train(terminal.folder, study, store, RunOptions("default"), torch.device("cpu"), terminal)
    assert shipped.checkpoint()["step"] > 0
    withdraw(shipped, "B", patients(shipped, "B", "train")[10])
    shipped.sltool("server-train", "--max-epochs", 3).ok()
    rows = shipped.history()
    assert [row["samples"] for row in rows] == ["354", "353", "353"]
    assert float(rows[1]["train_loss"]) == pytest.approx(float(rows[2]["train_loss"]), rel=1e-5)
    assert "epoch 2 starts again" in shipped.log()


@pytest.mark.parametrize("weights", ["proportional", "equal"])
def test_a_site_whose_patients_all_withdrew_gives_nothing(shipped: Server, weights: str) -> None:
    go = ("server-train", "--site-weights", weights, "--max-epochs")
    shipped.sltool(*go, 1).ok()
    for patient in patients(shipped, "C", "train"):
        shipped.sltool("withdraw", "--site", "C", "--patient", patient).ok()
    join(shipped, "C")
    ran = shipped.sltool(*go, 2, "--json").ok()
    assert ran.json["sites"] == ["A", "B"]
    assert card(shipped)["sites"].keys() == {"A", "B", "C"}, "C was there in the first epoch"


def test_a_run_that_is_done_stays_as_it_is(shipped: Server) -> None:
    shipped.sltool("server-train").ok()
    before = card(shipped)
    withdraw(shipped, "A", patients(shipped, "A", "validation")[0])
    shipped.sltool("server-train").ok()
    assert card(shipped) == before
