"""`sltool export`: files that others can use without sltool, and what the card says."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import onnxruntime
import pytest
import yaml
from safetensors.numpy import load_file

import sltool as package
from tests.conftest import Sltool

NAMES = ("network", "privacy-layer", "server-network")


def session(folder: Path, name: str) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(folder / f"{name}.onnx", providers=["CPUExecutionProvider"])


def predictions(sltool: Sltool) -> dict[str, float]:
    path = sltool.folder / "server" / "runs" / "default" / "predictions.csv"
    with path.open(newline="") as file:
        return {row["pseudonym"]: float(row["y_pred"]) for row in csv.DictReader(file)}


def test_the_exported_network_predicts_what_evaluate_does(ct: Sltool) -> None:
    """From the hospital's own pixels, which the server never had."""
    ct("evaluate").ok()
    done = ct("export", "--json").ok().json
    folder = ct.folder / done["folder"]
    assert set(done["files"]) == {path.name for path in folder.iterdir()}
    assert all(value <= done["tolerance"] for value in done["differences"].values())
    expected = predictions(ct)
    network = session(folder, "network")
    for site in "ABC":
        with h5py.File(ct.folder / "sites" / site / "private.h5") as private:
            test = np.flatnonzero(private["split"].asstr()[:] == "test")
            pixels = private["inputs"][test].astype(np.float32)
            names = private["pseudonyms"].asstr()[:][test]
        found = network.run(None, {"input": pixels})[0]
        # Feature maps travelled as float16.
        np.testing.assert_allclose(found, [expected[name] for name in names], atol=5e-3)
        maps = session(folder, "privacy-layer").run(None, {"input": pixels})[0]
        halves = session(folder, "server-network").run(None, {"feature_maps": maps})[0]
        np.testing.assert_allclose(halves, found, atol=1e-5)


def test_a_quantised_study_is_exported_with_its_levels(
    sltool: Sltool, data: Callable[[str], Path]
) -> None:
    source = data("covid-ct-sao-paulo")
    slices = sltool.folder / "slices"
    for name in ("COVID", "non-COVID"):
        (slices / name).mkdir(parents=True)
        for path in sorted((source / name).iterdir())[:60]:
            shutil.copyfile(path, slices / name / path.name)
    settings = ("dataset.size=40", "training.epochs=2", "model.filters=[1,8]")
    sltool("prepare", "covid-ct", "--source", slices, "--seed", 0, "--set", *settings).ok()
    code = ("--channels", 4, "--size", 3, "--widths", 4, 8, "--bits", 2, "--noise", 0)
    sltool("fit-privacy-layer", "--source", slices, *code, "--epochs", 1, "--seed", 0).ok()
    for stage in ("partition", "client-encode", "ship", "server-train", "evaluate"):
        sltool(stage).ok()
    done = sltool("export", "--json").ok().json
    assert all(value <= done["tolerance"] for value in done["differences"].values())
    expected = predictions(sltool)
    network = session(sltool.folder / done["folder"], "network")
    for site in "ABC":
        with h5py.File(sltool.folder / "sites" / site / "private.h5") as private:
            test = np.flatnonzero(private["split"].asstr()[:] == "test")
            pixels = private["inputs"][test].astype(np.float32)
            names = private["pseudonyms"].asstr()[:][test]
        found = network.run(None, {"input": pixels})[0]
        np.testing.assert_allclose(found, [expected[name] for name in names], atol=1e-4)
    card = (sltool.folder / done["folder"] / "README.md").read_text()
    assert "leaves out" not in card


def test_values_are_in_the_labels_unit(trained: Sltool) -> None:
    trained("evaluate").ok()
    folder = trained.folder / "card"
    trained("export", "--out", "card").ok()
    expected = predictions(trained)
    with h5py.File(trained.folder / "sites" / "A" / "private.h5") as private:
        test = np.flatnonzero(private["split"].asstr()[:] == "test")
        rows = private["inputs"][test].astype(np.float32)
        names = private["pseudonyms"].asstr()[:][test]
    found = session(folder, "network").run(None, {"input": rows})[0]
    np.testing.assert_allclose(found, [expected[name] for name in names], rtol=0.01)
    card = (folder / "README.md").read_text()
    assert "tabular-regression" in card
    assert "mg/dL" in card
    assert "None were chosen" in card


def test_the_card_has_metadata_figures_limits_and_digests(ct: Sltool) -> None:
    points = ct("evaluate", "--at", "sensitivity=0.9", "--json").ok().json
    ct("export").ok()
    folder = ct.folder / "server" / "runs" / "default" / "export"
    text = (folder / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    metadata = yaml.safe_load(front)
    assert metadata["pipeline_tag"] == "image-classification"
    results = metadata["model-index"][0]["results"][0]
    values = {metric["type"]: metric["value"] for metric in results["metrics"]}
    assert values == pytest.approx(points["metrics"], abs=1e-6)
    assert metadata["metrics"] == list(points["metrics"])
    threshold = points["operating_points"]["points"][0]["threshold"]
    assert f"| sensitivity=0.9 | {threshold:.6g} | all |" in body
    for site, count in (("A", 448), ("B", 128), ("C", 64)):
        assert f"| {site} | {count} |" in body
    assert "Not a medical device" in body
    for name in NAMES:
        for suffix in ("onnx", "safetensors"):
            assert f"`{name}.{suffix}`" in body
    assert "95 % interval" in body


def test_every_file_says_whose_it_is(ct: Sltool) -> None:
    ct("export").ok()
    folder = ct.folder / "server" / "runs" / "default" / "export"
    config = json.loads((folder / "config.json").read_text())
    for name in NAMES:
        bears = session(folder, name).get_modelmeta().custom_metadata_map
        assert bears == {key: config[key] for key in bears}
        assert set(bears) == {"study", "run", "encoding", "privacy_layer", "model"}
    whole = load_file(folder / "network.safetensors")
    layer = load_file(ct.folder / "privacy-layer.safetensors")
    for name, weights in layer.items():
        np.testing.assert_array_equal(whole[f"privacy_layer.{name}"], weights)


def test_exported_twice_is_the_same(ct: Sltool) -> None:
    study = package.Study.open(ct.folder)
    study.run().export(ct.folder / "one")
    study.run().export(ct.folder / "two")
    for path in (ct.folder / "one").iterdir():
        assert path.read_bytes() == (ct.folder / "two" / path.name).read_bytes(), path.name


def test_without_onnx_the_error_names_the_extra(
    ct: Sltool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    ran = ct("export", "--out", "elsewhere")
    assert ran.code == 2
    assert 'pip install "sltool[onnx]"' in ran.err
    assert not (ct.folder / "elsewhere").exists()


def test_a_run_that_does_not_exist(ct: Sltool) -> None:
    ran = ct("export", "--run", "defaul")
    assert ran.code == 2
    assert "did you mean 'default'?" in ran.err
