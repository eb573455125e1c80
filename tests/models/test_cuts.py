"""Any cut of any model gives two halves that are together the unsplit network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sltool.errors import StudyFileError
from sltool.models.base import ACTIVATIONS, Halves, build, feature_shape, outline
from sltool.registry import models
from sltool.study.schema import Study
from tests.models.studies import SMALL, study_of
from tests.models.timm_here import needs_timm

BUILTIN = {entry.name for entry in models.entries() if entry.origin == "built-in"}


def _marked(name: str, *more: Any) -> Any:
    return pytest.param(name, *more, marks=[needs_timm] if name == "timm" else [])


NAMES = [_marked(name) for name in SMALL]
CUTS = [_marked(name, cut) for name, (_, _, depth) in SMALL.items() for cut in range(depth + 1)]
# Networks of sltool's own layers, whose activations and normalisation are settings.
OWN = [name for name in SMALL if name != "timm"]
CONVOLUTIONAL = [name for name in OWN if name != "mlp"]


def whole(halves: Halves) -> torch.nn.Module:
    return torch.nn.Sequential(halves.privacy_layer, halves.server_network).eval()


def small_study(name: str, cut: int, **settings: Any) -> Study:
    shape, own, _ = SMALL[name]
    return study_of(name, shape, cut=cut, **{**own, **settings})


def test_every_built_in_model_is_tried() -> None:
    assert set(SMALL) == BUILTIN


@pytest.mark.parametrize(("name", "cut"), CUTS)
def test_server_of_site_equals_the_unsplit_network(name: str, cut: int) -> None:
    study = small_study(name, cut, **_without_norm(name))
    halves = build(study, seed=3)
    # The same weights, uncut: a server network with nothing at the site.
    unsplit = build(small_study(name, 0, **_without_norm(name)), seed=3).server_network.eval()
    x = torch.randn(2, *study.samples.shape)
    with torch.no_grad():
        maps = halves.privacy_layer.eval()(x)
        torch.testing.assert_close(halves.server_network.eval()(maps), unsplit(x))
    assert tuple(maps.shape[1:]) == feature_shape(study)
    assert len(halves.privacy_layer) == cut


def _without_norm(name: str) -> dict[str, Any]:
    # Which layers are normalised depends on the cut, so it is the same network only without.
    return {} if name in ("mlp", "timm") else {"server": {"batch_norm": False, "dropout": 0.0}}


@pytest.mark.parametrize(("name", "cut"), CUTS)
def test_nothing_at_the_site_depends_on_the_batch(name: str, cut: int) -> None:
    layer = build(small_study(name, cut), seed=0).privacy_layer.train()
    random = (torch.nn.Dropout, torch.nn.BatchNorm2d, torch.nn.BatchNorm1d)
    assert not any(isinstance(part, random) for part in layer.modules())


@pytest.mark.parametrize("name", NAMES)
def test_a_cut_behind_the_last_layer_is_refused(name: str) -> None:
    depth = SMALL[name][2]
    with pytest.raises(StudyFileError, match=f"the network has {depth} hidden layers"):
        build(small_study(name, depth + 1), seed=0)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_server_settings_do_not_change_the_privacy_layer(name: str) -> None:
    layers = [
        build(small_study(name, 1, server={"batch_norm": norm}), seed=1).privacy_layer.state_dict()
        for norm in (True, False)
    ]
    assert all(torch.equal(layers[0][key], layers[1][key]) for key in layers[0])


@pytest.mark.parametrize("name", OWN)
def test_the_server_may_have_an_activation_of_its_own(name: str) -> None:
    own = small_study(name, 1, activation="sigmoid", server={"activation": "tanh"})
    built, common = build(own, seed=1), build(small_study(name, 1, activation="sigmoid"), seed=1)
    site, server = _activations(built.privacy_layer), _activations(built.server_network)
    assert site == {torch.nn.Sigmoid}
    assert server == {torch.nn.Tanh}
    assert _activations(common.server_network) == {torch.nn.Sigmoid}
    for key, value in common.privacy_layer.state_dict().items():
        assert torch.equal(built.privacy_layer.state_dict()[key], value)


def _activations(network: torch.nn.Module) -> set[type]:
    return {type(part) for part in network.modules()} & set(ACTIVATIONS.values())


@pytest.mark.parametrize("name", NAMES)
def test_weights_go_into_the_outline(name: str) -> None:
    study = small_study(name, 1)
    built, drawn = build(study, seed=5), outline(study)
    assert all(parameter.is_meta for parameter in drawn.server_network.parameters())
    drawn.privacy_layer.load_state_dict(built.privacy_layer.state_dict(), assign=True)
    drawn.server_network.load_state_dict(built.server_network.state_dict(), assign=True)
    x = torch.randn(2, *study.samples.shape)
    with torch.no_grad():
        assert torch.equal(whole(drawn)(x), whole(built)(x))


@pytest.mark.parametrize("name", CONVOLUTIONAL)
@pytest.mark.parametrize("activation", ["sigmoid", "relu", "tanh"])
@pytest.mark.parametrize("pool", ["max", "average"])
def test_keras_like_layers_are_settings(name: str, activation: str, pool: str) -> None:
    study = small_study(name, 1, activation=activation, pool=pool)
    with torch.no_grad():
        maps = build(study, seed=0).privacy_layer(torch.randn(1, *study.samples.shape))
    assert maps.shape[2] == study.samples.shape[1] // 2
    if activation == "sigmoid":
        assert 0 < maps.min() < maps.max() < 1


def test_average_pooling_is_the_mean_of_equation_2() -> None:
    maximum, average = (
        build(small_study("covid-cnn", 1, pool=pool), seed=0).privacy_layer[0]
        for pool in ("max", "average")
    )
    x = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        before = average[:-1](x)
        blocks = before.unfold(2, 2, 2).unfold(3, 2, 2)
        assert torch.allclose(average(x), blocks.mean((-1, -2)), atol=1e-6)
        assert torch.equal(maximum(x), blocks.amax((-1, -2)))


@pytest.mark.parametrize(
    ("name", "shape", "wrong"),
    [
        ("mlp", (1, 8, 8), "table rows"),
        *((name, (7,), "images") for name in SMALL if name != "mlp"),
    ],
)
def test_samples_of_another_kind_are_refused(name: str, shape: tuple[int, ...], wrong: str) -> None:
    with pytest.raises(StudyFileError, match=wrong):
        outline(study_of(name, shape))


@pytest.mark.parametrize(("name", "sides"), [("covid-cnn", 31), ("resnet", 7), ("vgg19", 63)])
def test_too_few_pixels_are_refused(name: str, sides: int) -> None:
    with pytest.raises(StudyFileError, match="too few"):
        outline(study_of(name, (1, sides, sides)))


def test_without_a_seed_the_weights_come_from_the_whole_of_the_systems_entropy() -> None:
    """torch uses 32 bits of a seed; here the generator's whole state is drawn."""
    study = small_study("mlp", 1)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    weights = [build(study, seed=None).privacy_layer[0][0].weight for _ in range(2)]
    assert not (weights[0] == weights[1]).any()
    assert torch.equal(torch.get_rng_state(), before)


def test_torchs_generator_continues_from_the_drawn_state() -> None:
    from sltool.models.base import _seed_from_entropy

    with torch.random.fork_rng(devices=[]):
        _seed_from_entropy()
        key = torch.get_rng_state().numpy().view(np.uint64)[3 : 3 + 624].astype(np.uint32)
        drawn = torch.randint(0, 2**24, (100,), dtype=torch.int32).numpy()
    twister = np.random.MT19937()
    twister.state = {**twister.state, "state": {"key": key, "pos": 624}}
    assert (drawn == twister.random_raw(100) % 2**24).all()
    assert len(np.unique(key)) > 600
