"""VGG19 at the paper's size, and weights in torchvision's layout."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sltool.errors import BadDataError, StorageError, StudyFileError
from sltool.models.base import build, feature_shape, outline
from sltool.models.vgg19 import BLOCKS
from sltool.study.schema import Study
from tests.models.studies import study_of

# A sixteenth of VGG19's widths, so that "torchvision's layout" here means the names and the order.
WIDTH = 0.0625


def torchvision_features(normed: bool, width: float = WIDTH, channels: int = 3) -> nn.Sequential:
    """The `features` of torchvision's vgg19 or vgg19_bn, as its documentation lists them."""
    layers: list[nn.Module] = []
    for block in BLOCKS:
        for filters in block:
            after = round(filters * width)
            layers.append(nn.Conv2d(channels, after, 3, padding=1))
            layers += [nn.BatchNorm2d(after)] if normed else []
            layers.append(nn.ReLU())
            channels = after
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def torchvision_state(normed: bool = False) -> dict[str, torch.Tensor]:
    torch.manual_seed(7)
    network = nn.ModuleDict({"features": torchvision_features(normed)})
    return {**network.state_dict(), "classifier.6.bias": torch.zeros(1000)}


def study_with(weights: Path | str | None, cut: int = 1, **settings: Any) -> Study:
    server = {"weights": None if weights is None else str(weights), **settings.pop("server", {})}
    return study_of("vgg19", (1, 64, 64), cut, **{"width": WIDTH, "server": server, **settings})


def test_the_papers_sizes() -> None:
    study = study_of("vgg19", (1, 224, 224))
    assert feature_shape(study) == (1, 112, 112)
    halves = outline(study)
    convolutions = [
        [part for part in half.modules() if isinstance(part, nn.Conv2d)]
        for half in (halves.privacy_layer, halves.server_network)
    ]
    assert [len(half) for half in convolutions] == [1, 16]
    assert [part.out_channels for part in convolutions[1]] == [64] * 2 + [128] * 2 + [256] * 4 + [
        512
    ] * 8
    # torchvision's VGG19 has 20,024,384 parameters there; one input channel spares 2 * 64 * 9.
    assert sum(p.numel() for part in convolutions[1] for p in part.parameters()) == 20_023_232


def test_channels_at_the_cut_are_a_setting() -> None:
    assert feature_shape(study_of("vgg19", (1, 224, 224), channels=8)) == (8, 112, 112)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pretrained_weights_do_what_they_did(
    tmp_path: Path, suffix: str, normed: bool, channels: int
) -> None:
    state = torchvision_state(normed)
    path = tmp_path / f"vgg{suffix}"
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    study = study_with(path, channels=channels, server={"batch_norm": True if normed else None})
    network = build(study, seed=0, folder=tmp_path).server_network.eval()
    theirs = torchvision_features(normed).eval()
    theirs.load_state_dict(
        {k.removeprefix("features."): v for k, v in state.items() if k.startswith("features")}
    )
    grey = torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        found = network[:-1](grey.expand(-1, channels, -1, -1))
        expected = theirs(grey.expand(-1, 3, -1, -1))
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_weights_start_where_the_cut_leaves_off(tmp_path: Path) -> None:
    state = torchvision_state()
    torch.save(state, tmp_path / "vgg.pth")
    cut, plain = study_with("vgg.pth", cut=3), study_with(None, cut=3)
    halves, drawn = build(cut, 0, tmp_path), build(plain, 0)
    for key, value in drawn.privacy_layer.state_dict().items():
        assert torch.equal(halves.privacy_layer.state_dict()[key], value)
    first = halves.server_network[0][0]
    assert torch.equal(first.weight, state["features.5.weight"])


def test_weights_do_not_change_the_encoding(tmp_path: Path) -> None:
    layer = tmp_path / "privacy-layer.safetensors"
    layer.write_bytes(b"any")
    digests = {study_with(w).encoding_digest(layer) for w in (None, "vgg.pth")}
    assert len(digests) == 1
    assert study_with(None, channels=2).encoding_digest(layer) not in digests


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (lambda s: s.pop("features.34.weight"), {}, "no 'features.34.weight'"),
        (lambda s: s.update({"features.5.weight": torch.zeros(8, 3, 3, 3)}), {}, "features.5"),
        (lambda s: None, {"width": 0.125}, "not (8, 1, 3, 3)"),
        (lambda s: None, {"server": {"batch_norm": True}}, "model.server.batch_norm to false"),
        (lambda s: s.clear(), {}, "its first names are none"),
    ],
)
def test_other_weights_are_refused(
    tmp_path: Path, change: Any, settings: dict[str, Any], message: str
) -> None:
    state = torchvision_state()
    change(state)
    torch.save(state, tmp_path / "vgg.pth")
    with pytest.raises(StudyFileError) as raised:
        build(study_with("vgg.pth", **settings), 0, tmp_path)
    assert message in str(raised.value)
    assert "vgg.pth" in raised.value.where


def test_normed_weights_name_the_setting(tmp_path: Path) -> None:
    torch.save(torchvision_state(normed=True), tmp_path / "vgg.pth")
    with pytest.raises(StudyFileError, match=r"no 'features\.2\.weight'") as raised:
        build(study_with("vgg.pth"), 0, tmp_path)
    assert "model.server.batch_norm to true" in raised.value.hint


class Evil:
    def __reduce__(self) -> Any:
        return print, ("run by the pickle",)


def test_no_code_in_a_weights_file_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"features.0.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(BadDataError, match="cannot be read"):
        build(study_with("evil.pth"), 0, tmp_path)
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(BadDataError, match="cannot be read"):
        build(study_with("pickle.pth"), 0, tmp_path)
    assert "run by" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["vgg.pth", "vgg.safetensors"])
def test_a_damaged_or_missing_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(StorageError) as raised:
        build(study_with(name), 0, tmp_path)
    assert name in raised.value.where
    (tmp_path / name).write_bytes(b"not weights at all")
    with pytest.raises(BadDataError):
        build(study_with(name), 0, tmp_path)


def test_a_whole_network_is_no_state_dict(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "model": torchvision_state()}, tmp_path / "checkpoint.pth")
    with pytest.raises(BadDataError, match="does not contain a state dict"):
        build(study_with("checkpoint.pth"), 0, tmp_path)
