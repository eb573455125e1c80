"""A hospital without torch: every command of a site runs, and its feature maps are torch's."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from sltool.models.base import draw_privacy_layer
from sltool.models.layer_steps import layer_steps
from sltool.models.numpy_layer import NumpyLayer
from sltool.site.augment import Augmenter
from sltool.site.numpy_encoder import clipped_with_noise
from sltool.site.torch_encoder import clip_and_add_noise
from sltool.study.schema import Encoding
from tests.conftest import DATA, ROOT, Ran, Sltool
from tests.models.studies import SMALL, study_of

# What `pip install sltool` without an extra does not install.
ABSENT = ("torch", "scipy", "sklearn")
PROGRAM = f"""
import sys
sys.modules.update(dict.fromkeys({ABSENT!r}))
from sltool.cli.main import main
main()
"""


def without_torch(folder: Path, *args: object) -> Ran:
    """`sltool ARGS` in a process in which torch cannot be imported."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, args)],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Ran(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def slices(tmp_path: Path) -> Path:
    """60 real CT slices."""
    whole = DATA / "covid-ct-sao-paulo"
    if not whole.exists():
        pytest.skip(f"no real data at {whole}: set SLTOOL_TEST_DATA")
    for name in ("COVID", "non-COVID"):
        (tmp_path / "slices" / name).mkdir(parents=True)
        for path in sorted((whole / name).iterdir())[:30]:
            shutil.copyfile(path, tmp_path / "slices" / name / path.name)
    return tmp_path / "slices"


def agreed(sltool: Sltool, tmp_path: Path, dataset: str, *settings: str) -> Path:
    """A hospital's folder with the files that a coordinator, who has torch, made for all."""
    sltool("study", "new", dataset, "--set", *settings).ok()
    hospital = tmp_path / "hospital"
    hospital.mkdir()
    for path in sltool.folder.iterdir():
        shutil.copyfile(path, hospital / path.name)
    return hospital


def feature_maps(folder: Path) -> dict[str, Any]:
    """The features of each shard of site A."""
    found = {}
    for path in sorted((folder / "outbox" / "A").glob("*.h5")):
        with h5py.File(path) as shard:
            found[path.name] = shard["features"][:]
    assert found
    return found


def assert_last_bit(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Within the last bit of the dtype; next to zero, of float32's sums."""
    assert found.keys() == expected.keys()
    for name, maps in expected.items():
        assert found[name].dtype == maps.dtype
        exact, other = maps.astype(np.float64), found[name].astype(np.float64)
        bit = np.spacing(np.maximum(np.abs(maps), np.abs(found[name]))).astype(np.float64)
        allowed = np.maximum(bit, 1e-6 * np.abs(exact).max())
        assert (np.abs(exact - other) <= allowed).all(), name


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_hospital_prepares_encodes_and_ships(
    sltool: Sltool, tmp_path: Path, slices: Path, dtype: str
) -> None:
    settings = ("dataset.size=32", f"encoding.dtype={dtype}", "encoding.clip=20")
    hospital = agreed(sltool, tmp_path, "covid-ct", *settings)
    without_torch(hospital, "prepare", "--source", slices).ok()
    without_torch(hospital, "partition", "--site", "A").ok()
    encoded = without_torch(hospital, "client-encode", "--site", "A", "--json").ok().json
    assert encoded["samples"] == 60
    shipped = without_torch(hospital, "ship", "--site", "A", "--to", tmp_path / "usb").ok()
    assert "3 shards" in shipped.out
    without_torch(hospital, "status").ok()
    found = feature_maps(hospital)
    here = Sltool(hospital, sltool._capfd)
    again = here("client-encode", "--site", "A", "--backend", "torch", "--force", "--json").ok()
    assert_last_bit(found, feature_maps(hospital))
    assert again.json["dead_values"] == pytest.approx(encoded["dead_values"], abs=1e-3)
    norms = np.linalg.norm(found["A-train-00000.h5"].reshape(-1, 256).astype(float), axis=1)
    assert norms.max() <= 20.02


def test_embedded_categories_run_in_onnxruntime(
    sltool: Sltool, tmp_path: Path, data: Callable[[str], Path]
) -> None:
    """NumPy has no step for them."""
    whole = data("cholesterol/korea_checkup_20000.csv").read_text().splitlines(keepends=True)
    source = tmp_path / "checkups.csv"
    source.write_text("".join(whole[:401]))
    settings = ("model.embeddings={1: [3, 2]}", "dataset.columns=[age, sex, TC, HDL, TG]")
    hospital = agreed(sltool, tmp_path, "cholesterol", *settings)
    assert (hospital / "privacy-layer.onnx").is_file()
    kit = sltool("study", "kit", "--json").ok().json["file"]
    shutil.rmtree(hospital)
    hospital.mkdir()
    without_torch(hospital, "join", sltool.folder / kit, "--site", "A").ok()
    here = Sltool(hospital, sltool._capfd)
    here("prepare", "--source", source).ok()
    here("partition", "--site", "A").ok()
    here("client-encode", "--site", "A", "--backend", "torch").ok()
    expected = feature_maps(hospital)
    without_torch(hospital, "client-encode", "--site", "A", "--force").ok()
    assert_last_bit(feature_maps(hospital), expected)
    refused = here("client-encode", "--site", "A", "--backend", "numpy", "--force")
    assert refused.code == 2
    assert "onnxruntime or torch" in refused.err
    other = bytearray((hospital / "privacy-layer.onnx").read_bytes())
    other[-1] ^= 1
    (hospital / "privacy-layer.onnx").write_bytes(other)
    ran = without_torch(hospital, "client-encode", "--site", "A", "--force")
    assert ran.code == 6
    assert "missing or of another layer" in ran.err


@pytest.mark.slow
def test_a_fitted_layer_runs_in_numpy(sltool: Sltool, tmp_path: Path, slices: Path) -> None:
    """Its code is quantised, and its last pooling averages over areas of different sizes."""
    settings = ("dataset.size=40", "training.epochs=1")
    sltool("study", "new", "covid-ct", "--set", *settings).ok()
    code = ("--channels", 4, "--size", 3, "--widths", 4, 8, "--bits", 4, "--noise", 0)
    sltool("fit-privacy-layer", "--source", slices, *code, "--epochs", 1).ok()
    assert not (sltool.folder / "privacy-layer.onnx").exists()
    kit = sltool("study", "kit", "--json").ok().json["file"]
    hospital = tmp_path / "hospital"
    hospital.mkdir()
    without_torch(hospital, "join", sltool.folder / kit, "--site", "A").ok()
    without_torch(hospital, "prepare", "--source", slices).ok()
    without_torch(hospital, "partition", "--site", "A").ok()
    encoded = without_torch(hospital, "client-encode", "--site", "A", "--json").ok().json
    found = feature_maps(hospital)
    cases = ("client-encode", "--site", "A", "--for", "prediction", "--source", slices)
    assert without_torch(hospital, *cases, "--json").ok().json["samples"] == 60
    here = Sltool(hospital, sltool._capfd)
    again = here("client-encode", "--site", "A", "--backend", "torch", "--force", "--json").ok()
    assert again.json["dead_values"] == pytest.approx(encoded["dead_values"], abs=0.01)
    expected = feature_maps(hospital)
    for name, rows in found.items():
        assert rows.dtype == np.uint8
        # Next to the middle of two levels the last bit decides.
        assert (rows == expected[name]).mean() > 0.999


@pytest.mark.parametrize(("side", "size"), [(10, 3), (14, 4), (8, 4), (4, 4)])
def test_averages_over_areas_are_those_of_torch(side: int, size: int) -> None:
    x = torch.randn(2, 3, side, side + 1)
    expected = torch.nn.functional.adaptive_avg_pool2d(x, size).numpy()
    found = NumpyLayer([{"op": "areas", "size": size}], {})(x.numpy())
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.slow
def test_commands_that_need_torch_name_the_extra(trained: Sltool) -> None:
    empty = trained.folder / "empty"
    empty.mkdir()
    for folder, words in (
        (empty, ("study", "new", "covid-ct")),
        (empty, ("prepare", "covid-ct", "--source", ".")),
        (trained.folder, ("server-train", "--run", "again")),
        (trained.folder, ("evaluate",)),
        (trained.folder, ("export",)),
        (trained.folder, ("predict",)),
        (trained.folder, ("fit-privacy-layer", "--site", "A", "--force")),
        (trained.folder, ("audit", "--site", "A")),
        (trained.folder, ("report",)),
        (trained.folder, ("list", "models")),
        (trained.folder, ("client-encode", "--site", "A", "--backend", "torch", "--force")),
    ):
        ran = without_torch(folder, *words)
        assert ran.code == 2, (words, ran)
        assert 'pip install "sltool[server]"' in ran.err, (words, ran.err)


def test_a_layer_of_an_earlier_version_needs_torch(trained: Sltool) -> None:
    """Its file does not say how to compute it without torch."""
    from safetensors.torch import load_file, save_file

    path = trained.folder / "privacy-layer.safetensors"
    save_file(load_file(path), path)
    ran = without_torch(trained.folder, "client-encode", "--site", "A", "--force")
    assert ran.code == 2
    assert "this study's privacy layer needs torch" in ran.err


@pytest.mark.parametrize(("name", "cut"), [("covid-cnn", 1), ("covid-cnn", 3), ("vgg19", 2)])
@pytest.mark.parametrize("pool", ["max", "average"])
@pytest.mark.parametrize("activation", ["relu", "leaky-relu", "sigmoid", "tanh"])
def test_numpy_computes_every_sequential_layer(
    name: str, cut: int, pool: str, activation: str
) -> None:
    shape, own, _ = SMALL[name]
    study = study_of(name, shape, cut=cut, **{**own, "pool": pool, "activation": activation})
    layer = draw_privacy_layer(study, 0, Path()).eval()
    steps = layer_steps(layer, shape)
    assert steps is not None
    assert json.loads(json.dumps(steps)) == steps
    x = torch.randn(5, *shape)
    plain = NumpyLayer(steps, {key: value.numpy() for key, value in layer.state_dict().items()})
    with torch.inference_mode():
        np.testing.assert_allclose(plain(x.numpy()), layer(x).numpy(), atol=1e-5, rtol=1e-5)


def test_a_layer_that_does_more_than_its_parts_say_has_no_steps() -> None:
    layer = torch.nn.Sequential(torch.nn.Linear(3, 4))
    assert layer_steps(layer, (3,))
    layer.register_forward_hook(lambda part, inputs, output: output * 2)
    assert layer_steps(layer, (3,)) is None
    assert layer_steps(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.GELU()), (3,)) is None


def test_noise_and_clipping_are_those_of_torch() -> None:
    maps = np.random.default_rng(0).normal(size=(500, 2, 8, 8)).astype(np.float32)
    clipped = clipped_with_noise(maps, Encoding(clip=8.0))
    expected = clip_and_add_noise(torch.from_numpy(maps), Encoding(clip=8.0), torch.randn_like)
    np.testing.assert_allclose(clipped, expected.numpy(), rtol=1e-5)
    settings = Encoding(clip=8.0, noise=0.5)
    first, second = (clipped_with_noise(maps, settings) for _ in range(2))
    assert first.dtype == np.float32
    noise = first - clipped
    assert noise.mean() == pytest.approx(0, abs=0.01)
    assert noise.std() == pytest.approx(0.5, rel=0.02)
    assert np.corrcoef(noise.ravel(), (second - clipped).ravel())[0, 1] < 0.02


@pytest.mark.parametrize("shape", [(3, 1, 24, 40), (2, 3, 17, 9)])
def test_versions_of_an_image_are_those_of_torch(shape: tuple[int, ...]) -> None:
    settings = Encoding.model_validate(
        {"views": 4, "augment": {"rotation": 40.0, "crop": 0.4, "brightness": 0.3}}
    )
    images = np.random.default_rng(1).uniform(0, 255, shape).astype(np.float32)
    expected = Augmenter(settings, 5)(torch.from_numpy(images), 4).numpy()
    found = Augmenter(settings, 5).plain(images, 4)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=0.02)
