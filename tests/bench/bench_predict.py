"""Answering 10,000 cases: `predict` against a bare forward loop over tensors in RAM."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from sltool.models.base import load_weights, outline
from sltool.progress import Silent
from sltool.server.evaluation.predict import answer_cases
from sltool.server.intake.queue import Queue
from sltool.server.training.run import train
from sltool.server.training.run_settings import RunOptions
from sltool.server.training.trainer import EVALUATION_BATCH
from sltool.shard.manifest import PREDICTION
from sltool.study.layout import StudyFolder
from sltool.study.schema import Study
from tests.bench import Row, in_turn, seconds
from tests.bench.made_up import accepted, make_study, ship

CPU = torch.device("cpu")
CASES = 10_000
RUN = "bench"
BAR = 0.85


def rows() -> Iterator[Row]:
    yield from (
        against_bare(what, model, shape, names, bar)
        for what, model, shape, names, bar in (
            ("COVID CNN, 64x64", {"name": "covid-cnn"}, (1, 64, 64), ("no", "yes"), BAR),
            ("cholesterol MLP, 7 columns", {"name": "mlp"}, (7,), (), None),
        )
    )


def against_bare(
    what: str,
    model: dict[str, Any],
    shape: tuple[int, ...],
    names: tuple[str, ...],
    bar: float | None,
) -> Row:
    """From the store to the signed file, all included, against the network's forward passes."""
    with tempfile.TemporaryDirectory() as root:
        folder, study = make_study(Path(root), model, shape, 64, ["A"], names)
        store = accepted(folder, study, {"A": 64}).store
        train(folder, study, store, RunOptions(RUN, max_epochs=1), CPU, Silent())
        ship(folder, study, {"A": CASES}, PREDICTION)
        queue = Queue(folder, study)
        queue.take(Silent())
        store = queue.store

        def ours() -> None:
            (answer,) = answer_cases(folder, study, store, RUN, [], CPU, again=True)
            assert answer.cases == CASES

        bare = bare_loop(folder, study, store.samples(PREDICTION).features)
        for warm in (ours, bare):
            warm()
        mine, theirs, ratio = in_turn(lambda: seconds(bare), lambda: seconds(ours))
    measured = f"{ratio:.3f} of the bare loop's rate ({theirs:.2f} s, {mine:.2f} s)"
    name = f"predict on 10,000 cases, {what}"
    return Row(name, measured) if bar is None else Row(name, measured, f">= {bar}", ratio >= bar)


def bare_loop(folder: StudyFolder, study: Study, features: torch.Tensor) -> Callable[[], object]:
    """The forward passes of the same network over the same feature maps, held in RAM."""
    network = outline(study).server_network
    load_weights(network, folder.run(RUN).model, "the run's model", "")
    network = network.eval()
    maps = features.clone()
    if maps.dim() == 4:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def forward() -> torch.Tensor:
        outputs = []
        for part in torch.split(maps, EVALUATION_BATCH):
            batch = part.float()
            if batch.dim() == 4:
                batch = batch.contiguous(memory_format=torch.channels_last)
            outputs.append(network(batch))
        return torch.cat(outputs)

    return forward
