"""Tables: categories enter as vectors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sltool.errors import StudyFileError
from sltool.models.base import build, draw_privacy_layer, outline
from tests.conftest import Sltool
from tests.models.studies import study_of

LAYER = "privacy-layer.safetensors"
EMBEDDINGS = {1: [3, 2], 4: [20, 8]}


def rows(codes: list[float]) -> torch.Tensor:
    x = torch.zeros(len(codes), 5)
    x[:, 4] = torch.tensor(codes)
    return x


def test_codes_are_names_and_not_quantities() -> None:
    study = study_of("mlp", (5,), embeddings=EMBEDDINGS)
    for seed in range(5):
        with torch.no_grad():
            maps = draw_privacy_layer(study, seed, Path())(rows([0, 1, 2, 19]))
        distances = torch.cdist(maps, maps)[~torch.eye(4, dtype=torch.bool)]
        assert distances.min() > 0.2 * distances.max()


def test_unknown_codes_are_one_more_category() -> None:
    study = study_of("mlp", (5,), embeddings=EMBEDDINGS)
    with torch.no_grad():
        known, *unknown = draw_privacy_layer(study, 0, Path())(rows([19, 20, -1, 1e6]))
    assert all(torch.equal(unknown[0], other) for other in unknown)
    assert not torch.allclose(known, unknown[0])


def test_a_layer_with_categories_is_alive() -> None:
    study = study_of("mlp", (5,), embeddings=EMBEDDINGS, activation="relu")
    x = torch.randn(400, 5)
    x[:, 1], x[:, 4] = torch.randint(3, (400,)), torch.randint(20, (400,))
    for seed in range(10):
        with torch.no_grad():
            maps = draw_privacy_layer(study, seed, Path())(x)
        assert float((maps == 0).float().mean()) <= 0.2


def test_the_halves_fit() -> None:
    study = study_of("mlp", (5,), cut=0, embeddings=EMBEDDINGS)
    network = build(study, 0).server_network
    network(rows([1, 2])).sum().backward()
    assert network[0][0].tables["4"].weight.grad.abs().sum() > 0


def test_an_embedding_of_a_missing_column_is_refused() -> None:
    with pytest.raises(StudyFileError, match="no column 5"):
        outline(study_of("mlp", (5,), embeddings={5: [2, 2]}))


def test_a_study_with_a_category_runs_whole(sltool: Sltool) -> None:
    """Sex as a category: the bundled patients' codes 1 and 2, agreed mean 1 and sd 1."""
    sltool("prepare", "cholesterol", "--set", "training.epochs=2").ok()
    path = sltool.folder / "study.yaml"
    text = path.read_text().replace("sex: [1.5, 0.5]", "sex: [1.0, 1.0]")
    path.write_text(text.replace("embeddings: {}", "embeddings: {1: [2, 4]}"))
    for stage in ("prepare", "partition", "client-encode", "ship", "server-train", "evaluate"):
        sltool(stage).ok()
    shapes = {name: value.shape for name, value in load_file(sltool.folder / LAYER).items()}
    assert shapes["0.0.tables.1.weight"] == (3, 4)
    assert shapes["0.1.weight"] == (64, 6 + 4)
