"""privacy-layer.safetensors says which feature maps it makes, and for which settings."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from sltool.errors import StudyMismatchError
from sltool.models.base import build
from sltool.models.privacy_layer_file import feature_shape, known_shape, write_layer
from sltool.study.schema import Study
from tests.conftest import Sltool


def study_of(size: int = 64, **model: object) -> Study:
    labels = {"kind": "binary", "classes": ["no", "yes"]}
    return Study.model_validate(
        {
            "id": "0" * 32,
            "dataset": {"name": "covid-ct"},
            "samples": {"shape": [1, size, size], "mean": [0.0], "sd": [1.0], "labels": labels},
            "model": {"name": "covid-cnn", "filters": [4, 8, 8], **model},
        }
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file of `study_of()`."""
    study = study_of()
    write_layer(tmp_path / "layer", build(study, 3).privacy_layer, study)
    return tmp_path / "layer"


def test_the_shape_is_known_without_the_network(path: Path) -> None:
    assert known_shape(path, study_of()) == feature_shape(path, study_of()) == (4, 32, 32)
    assert known_shape(path, study_of(server={"dropout": 0.5})) == (4, 32, 32)


@pytest.mark.parametrize(
    ("study", "shape"),
    [
        (study_of(32), (4, 16, 16)),
        (study_of(cut=2), (8, 16, 16)),
        (study_of(cut=0), (1, 64, 64)),
        (study_of(activation="relu"), (4, 32, 32)),
    ],
)
def test_a_shape_recorded_for_other_settings_is_not_used(
    path: Path, study: Study, shape: tuple[int, ...]
) -> None:
    assert known_shape(path, study) is None
    assert feature_shape(path, study) == shape


def test_a_file_that_says_nothing(path: Path) -> None:
    save_file(load_file(path), path)
    assert known_shape(path, study_of()) is None
    assert feature_shape(path, study_of()) == (4, 32, 32)


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, None])
def test_a_file_that_cannot_be_read(path: Path, content: bytes | None) -> None:
    path.write_bytes(content) if content is not None else path.unlink()
    assert known_shape(path, study_of()) is None


def test_the_same_weights_make_the_same_file(path: Path) -> None:
    study, again = study_of(), path.with_name("again")
    for _ in range(5):
        write_layer(again, build(study, 3).privacy_layer, study)
        assert again.read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_a_plug_in_whose_output_shape_changed(sltool: Sltool) -> None:
    plugin = sltool.folder / "halves.py"
    code = (
        "from torch import nn\n"
        "from sltool.models.base import Layers, Model\n"
        "from sltool.registry import models\n"
        "@models.register('halves')\n"
        "class Halves(Model):\n"
        "    def layers(self, shape, outputs, cut):\n"
        "        return Layers([nn.AvgPool1d({by})], nn.LazyLinear(outputs))\n"
    )
    plugin.write_text(code.format(by=1))
    options = ("--plugins-dir", plugin)
    sltool.run("prepare", "cholesterol", "--set", "model={name: halves}", *options).ok()
    sltool.run("partition", *options).ok()
    plugin.write_text(code.format(by=7))
    ran = sltool.run("client-encode", *options)
    assert ran.code == StudyMismatchError.exit_code
    assert "gives feature maps of shape (1,)" in ran.err
    assert "(7,), as when the study was made" in ran.err
