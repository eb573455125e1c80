"""timm's networks: every family cut anywhere, and weights from a file, the stem's too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sltool.errors import BadDataError, StudyFileError, UnknownNameError
from sltool.models.base import build, draw_privacy_layer, feature_shape, outline
from sltool.study.schema import Study
from tests.conftest import Sltool
from tests.models.studies import study_of
from tests.models.timm_here import needs_timm

pytestmark = needs_timm

# A network of each family, and its stem and stages.
NETWORKS = {"resnet18": 5, "densenet121": 5, "efficientnet_b0": 8, "convnext_atto": 5}
SHAPE = (1, 64, 64)


def theirs(network: str, channels: int, classes: int = 1) -> Any:
    import timm

    return timm.create_model(network, num_classes=classes, in_chans=channels).eval()


def study_with(network: str, cut: int = 1, **settings: Any) -> Study:
    return study_of("timm", SHAPE, cut, network=network, **settings)


@pytest.mark.parametrize(("network", "depth"), NETWORKS.items())
def test_halves_of_a_network_at_its_own_stages_are_the_network(
    tmp_path: Path, network: str, depth: int
) -> None:
    torch.manual_seed(0)
    whole = theirs(network, 1)
    save_file(whole.state_dict(), tmp_path / "weights.safetensors")
    server = {"weights": "weights.safetensors"}
    x = torch.randn(2, *SHAPE)
    for cut in range(1, depth + 1):
        study = study_with(network, cut, stem="network", pretrained_stem=True, server=server)
        layer = draw_privacy_layer(study, 0, tmp_path).eval()
        halves = build(study, 0, tmp_path)
        assert len(layer) == cut
        assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in layer.modules())
        rest = halves.server_network.eval()
        with torch.no_grad():
            maps = layer(x)
            assert tuple(maps.shape[1:]) == feature_shape(study)
            # The classifier is the study's own, so compare what goes into it.
            found = rest[:-1](maps) if cut < depth else maps
            expected = torch.nn.Sequential(layer, rest[:-1])(x)
            assert torch.equal(found, expected)
            copy_classifier(whole, rest)
            torch.testing.assert_close(rest(maps), whole(x), rtol=1e-3, atol=1e-4)


def copy_classifier(whole: torch.nn.Module, rest: torch.nn.Module) -> None:
    last = [
        [part for part in network.modules() if isinstance(part, torch.nn.Linear)][-1]
        for network in (whole, rest)
    ]
    last[1].load_state_dict(last[0].state_dict())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_go_behind_our_convolution(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(0)
    state = theirs("resnet18", 3, classes=1000).state_dict()
    path = tmp_path / f"weights{suffix}"
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    study = study_with("resnet18", channels=4, server={"weights": path.name})
    network = build(study, 0, tmp_path).server_network
    assert torch.equal(network[1][0][0].conv1.weight, state["layer1.0.conv1.weight"])
    # Four channels for three: red, green, blue and red again, each with 3/4 of its weight.
    first = network[0][0].weight
    torch.testing.assert_close(first[:, 3], state["conv1.weight"][:, 0] * 0.75)
    drawn = build(study_with("resnet18", channels=4), 0).server_network
    assert torch.equal(network[-1][-1].weight, drawn[-1][-1].weight)
    assert torch.equal(first, build(study, 1, tmp_path).server_network[0][0].weight)


def test_any_network_behind_our_convolution() -> None:
    study = study_with("vit_tiny_patch16_224", arguments={"img_size": 32})
    halves = build(study, 0)
    with torch.no_grad():
        maps = halves.privacy_layer(torch.randn(2, *SHAPE))
        assert maps.shape[1:] == (16, 32, 32)
        assert halves.server_network.eval()(maps).shape == (2, 1)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"network": "resnet_18"}, UnknownNameError, "resnet18"),
        ({"network": "hf-hub:timm/resnet18"}, UnknownNameError, "unknown timm network"),
        ({"network": "vit_tiny_patch16_224", "stem": "network"}, StudyFileError, "families ResNet"),
        ({"network": "vit_tiny_patch16_224"}, StudyFileError, "does not take (16, 32, 32)"),
        ({"network": "resnet18", "arguments": {"no": 1}}, StudyFileError, "model.arguments"),
    ],
)
def test_impossible_settings_are_refused(
    settings: dict[str, Any], error: type, message: str
) -> None:
    with pytest.raises(error) as raised:
        outline(study_with(**settings))
    assert message in str(raised.value)


@pytest.mark.parametrize("settings", [{}, {"stem": "network"}])
def test_a_pretrained_stem_needs_weights(tmp_path: Path, settings: dict[str, Any]) -> None:
    study = study_with("resnet18", pretrained_stem=True, **settings)
    with pytest.raises(StudyFileError, match="no stem to take"):
        draw_privacy_layer(study, 0, tmp_path)


class Evil:
    def __reduce__(self) -> Any:
        return print, ("run by the pickle",)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda s: s.pop("layer2.0.conv1.weight"), StudyFileError, "no 'layer2.0.conv1.weight'"),
        (lambda s: s.update({"bn1.bias": torch.zeros(3)}), StudyFileError, "not (64,)"),
        (lambda s: s.update({"conv1.weight": Evil()}), BadDataError, "cannot be read"),
    ],
)
def test_other_weights_are_refused(
    tmp_path: Path,
    change: Callable[[Any], Any],
    error: type,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    state = theirs("resnet18", 3).state_dict()
    change(state)
    torch.save(state, tmp_path / "weights.pth")
    study = study_with("resnet18", server={"weights": "weights.pth"})
    with pytest.raises(error) as raised:
        build(study, 0, tmp_path)
    assert message in str(raised.value)
    assert "weights.pth" in str(raised.value)
    assert "run by" not in capsys.readouterr().out


def test_a_study_with_a_pretrained_stem_runs_whole(sltool: Sltool) -> None:
    torch.manual_seed(0)
    state = theirs("test_resnet", 3).state_dict()
    save_file(state, sltool.folder / "weights.safetensors")
    sltool(
        "prepare", "mura", "--synthetic", 40, "--set", "dataset.size=64", "model.name=timm",
        "model.network=test_resnet", "model.stem=network", "model.pretrained_stem=true",
        "model.server.weights=weights.safetensors", "training.epochs=1",
    ).ok()  # fmt: skip
    layer = load_file(sltool.folder / "privacy-layer.safetensors")
    kernel = next(value for name, value in layer.items() if name.endswith("0.weight"))
    assert layer
    assert kernel.dtype == torch.float32
    for stage in ("partition", "client-encode", "ship", "server-train", "evaluate"):
        sltool(stage).ok()


def test_outlines_have_no_weights() -> None:
    halves = outline(study_with("densenet121", stem="network"))
    assert all(value.is_meta for value in halves.server_network.state_dict().values())
