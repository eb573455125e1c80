"""ONNX and torch compute the same, for every built-in model, on 1,000 cases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sltool.errors import SltoolError
from sltool.models.base import build
from sltool.models.onnx_file import TOLERANCE, check, difference, run_onnx, to_onnx
from sltool.server.export.export import probe
from sltool.server.export.network import MapsToPrediction, SourceToMaps
from sltool.study.schema import Study
from tests.conftest import DATA
from tests.models.studies import SMALL, study_of
from tests.models.timm_here import needs_timm

CASES, REAL = 1000, 200


def source_study(name: str, classes: int = 2, clip: float | None = None, **settings: Any) -> Study:
    """A study whose samples have the units of a real source."""
    shape, own, _ = SMALL[name]
    study = study_of(name, shape, classes=classes, **{**own, **settings})
    mean, sd = (100.0, 60.0) if len(shape) == 3 else (50.0, 30.0)
    samples = study.samples.model_copy(update={"mean": (mean,) * shape[0], "sd": (sd,) * shape[0]})
    encoding = study.encoding.model_copy(update={"clip": clip})
    return study.model_copy(update={"samples": samples, "encoding": encoding})


def real_samples(shape: tuple[int, ...]) -> torch.Tensor:
    """(n, *shape) CT slices, or patients' records."""
    if len(shape) == 1:
        from sklearn.datasets import load_diabetes

        rows = load_diabetes(scaled=False).data[:REAL, : shape[0]]
        return torch.from_numpy(rows.astype(np.float32))
    source = DATA / "covid-ct-sao-paulo"
    if not source.exists():
        pytest.skip(f"no real data at {source}: set SLTOOL_TEST_DATA")
    pictures = [
        np.asarray(Image.open(path).convert("L").resize(shape[:0:-1]), np.float32)
        for path in sorted(source.glob("*/*.png"))[:: 2481 // REAL][:REAL]
    ]
    return torch.from_numpy(np.stack(pictures))[:, None].expand(-1, *shape).contiguous()


def whole_network(study: Study) -> nn.Module:
    """With weights as after some training: normalised layers have seen samples."""
    halves = build(study, seed=3)
    site = SourceToMaps(halves.privacy_layer, study.samples, study.encoding)
    server = MapsToPrediction(halves.server_network, study.samples.labels)
    network = nn.Sequential(site, server).train()
    with torch.no_grad():
        network(probe(study))
    return network.eval()


MODELS = [pytest.param(name, marks=[needs_timm] if name == "timm" else []) for name in SMALL]


@pytest.mark.parametrize("name", MODELS)
def test_onnx_equals_torch(name: str) -> None:
    study = source_study(name)
    network = whole_network(study)
    model = to_onnx(network, probe(study, 2), ("input", "probability"), {"study": study.id})
    real = real_samples(study.samples.shape)
    cases = torch.cat([probe(study, CASES - len(real)), real])
    assert len(cases) == CASES
    assert len(real) >= 100
    assert difference(network, model, cases, 1.0) <= TOLERANCE
    with torch.inference_mode():
        predicted = network(cases)
    assert predicted.std() > 1e-3, "the cases are told apart"


@pytest.mark.parametrize("count", [1, 7])
def test_batches_of_any_size(count: int) -> None:
    study = source_study("covid-cnn", clip=3.0)
    network = whole_network(study)
    model = to_onnx(network, probe(study, 2), ("input", "probability"), {})
    assert run_onnx(model, probe(study, count).numpy()).shape == (count,)
    check(network, model, probe(study, count), 1.0, "the network")


def test_several_classes_and_embedded_categories() -> None:
    study = source_study("mlp", classes=4, embeddings={1: [3, 2]})
    network = whole_network(study)
    cases = probe(study, 500)
    cases[:, 1] = torch.arange(500) % 5
    model = to_onnx(network, cases[:2], ("input", "probabilities"), {})
    found = run_onnx(model, cases.numpy())
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    assert difference(network, model, cases, 1.0) <= TOLERANCE


def test_another_network_is_noticed() -> None:
    study = source_study("mlp")
    model = to_onnx(whole_network(study), probe(study, 2), ("input", "probability"), {})
    other = MapsToPrediction(build(study, seed=4).server_network, study.samples.labels)
    site = SourceToMaps(build(study, seed=4).privacy_layer, study.samples, study.encoding)
    with pytest.raises(SltoolError, match="differs from torch"):
        check(nn.Sequential(site, other), model, probe(study), 1.0, "the network")
