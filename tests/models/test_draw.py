"""A drawn privacy layer passes on what the samples say, whatever the seed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sltool.models.base import draw_privacy_layer
from sltool.models.draw import directions, probe
from sltool.study.schema import Study
from tests.bench.bench_privacy_layer import BAR, RELU, prepared
from tests.models.studies import SMALL, study_of
from tests.models.timm_here import needs_timm

SEEDS = range(6)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("cholesterol", None),
        ("cholesterol", "cholesterol/ldl_direct_1000.csv"),
        ("covid-ct", "covid-ct-sao-paulo"),
        ("mura", None),
    ],
)
def test_no_seed_gives_a_dead_layer(
    data: Callable[[str], Path], name: str, place: str | None
) -> None:
    real = prepared(name, data(place) if place else None, RELU, samples=40)
    assert max(real.dead(seed) for seed in SEEDS) <= BAR


def eight_bit(study: Study) -> Study:
    channels = study.samples.shape[0]
    standard = {"mean": (127.5,) * channels, "sd": (127.5,) * channels}
    return study.model_copy(update={"samples": study.samples.model_copy(update=standard)})


@pytest.mark.parametrize("cut", [1, 2, 3])
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[needs_timm] if n == "timm" else []) for n in SMALL]
)
def test_deeper_cuts_are_alive_too(name: str, cut: int) -> None:
    shape, settings, _ = SMALL[name]
    activation = {"activation": "relu"}
    study = eight_bit(study_of(name, shape, cut, **{**settings, **activation}))
    generator = torch.Generator().manual_seed(1)
    samples = probe(study.samples) if len(shape) == 3 else torch.randn(64, *shape)
    samples = samples + 0.1 * torch.randn(samples.shape, generator=generator)
    for seed in SEEDS:
        layer = draw_privacy_layer(study, seed, Path()).eval()
        with torch.no_grad():
            maps = layer(samples)
        assert torch.isfinite(maps).all()
        assert float((maps == 0).float().mean()) <= BAR


@pytest.mark.parametrize("name", ["covid-cnn", "resnet", "vgg19"])
@pytest.mark.parametrize("channels", [1, 16])
def test_black_is_alive_and_brightness_goes_through(name: str, channels: int) -> None:
    setting: dict[str, Any] = {"channels": channels}
    if name == "covid-cnn":
        setting = {"filters": [channels, 8, 8]}
    study = eight_bit(study_of(name, (1, 64, 64), activation="relu", **setting))
    greys = torch.linspace(-1, 1, 5).reshape(-1, 1, 1, 1).expand(-1, 1, 64, 64)
    for seed in SEEDS:
        with torch.no_grad():
            maps = draw_privacy_layer(study, seed, Path()).eval()(greys)[:, :, 8:-8, 8:-8]
        black, *lighter = maps.mean((2, 3))
        assert (black > 0).all()
        # The first channel is brighter where the image is; the others have the sign of their seed.
        steps = torch.stack([black, *lighter])[:, 0].diff()
        assert (steps > 0.05).all()


@pytest.mark.parametrize("bright", [True, False])
@pytest.mark.parametrize(("units", "inputs"), [(1, 9), (4, 9), (16, 9), (64, 7), (3, 1)])
def test_directions_are_unit_vectors_that_differ(units: int, inputs: int, bright: bool) -> None:
    torch.manual_seed(0)
    rows = directions(units, inputs, bright)
    assert torch.allclose(rows.norm(dim=1), torch.ones(units), atol=1e-5)
    if bright and inputs > 1:
        assert torch.allclose(rows.mean(1).abs(), rows.mean(1).abs()[0].expand(units), atol=1e-5)
        rows = rows - rows.mean(1, keepdim=True)
    block = rows[: inputs - bright]
    products = block @ block.T
    assert torch.allclose(products, torch.diag(products.diag()), atol=1e-5)


@pytest.mark.parametrize(("activation", "middle"), [("sigmoid", 0.5), ("tanh", 0.0)])
def test_sigmoids_are_not_saturated(activation: str, middle: float) -> None:
    study = study_of("mlp", (7,), activation=activation)
    with torch.no_grad():
        maps = draw_privacy_layer(study, 0, Path())(torch.randn(500, 7))
    assert abs(float(maps.mean()) - middle) < 0.1
    assert float(((maps - middle).abs() < 0.45).float().mean()) > (0.8 if middle else 0.3)


def test_the_layer_follows_from_the_seed() -> None:
    study = study_of("covid-cnn", (1, 32, 32))
    state = torch.random.get_rng_state()
    first, again, other = (
        draw_privacy_layer(study, seed, Path()).state_dict()["0.0.weight"] for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)
