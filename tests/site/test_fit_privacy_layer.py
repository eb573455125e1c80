"""`fit-privacy-layer`: a layer that ends in a short code, through every stage; and refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open

from sltool.models.base import build
from sltool.models.layer_steps import layer_steps
from sltool.models.privacy_layer_file import fitted_on, load_privacy_layer
from sltool.progress import Silent
from sltool.site.audit import attacker, measures
from sltool.site.fit_layer import FitData, FitOptions, distance_correlation, fit_layer
from sltool.site.torch_encoder import as_shipped
from sltool.study.layout import StudyFolder
from sltool.study.schema import Study
from sltool.study.study_file import load_study
from tests.conftest import DATA, Sltool
from tests.images import two_classes

CT = "covid-ct-sao-paulo"
CODE = ("--widths", 8, 16, 16, "--size", 4, "--bits", 1)
SMALL = (*CODE, "--weight", 1, "--epochs", 2, "--seed", 0)


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    small = attacker.Budget("quick", 200, 40, steps=16, descent=16, optimised=4, rows=5_000)
    monkeypatch.setitem(attacker.BUDGETS, "quick", small)


def scans(folder: Path, each: int, start: int = 0) -> Path:
    """Some of the real slices, in the source's layout."""
    if not (DATA / CT).exists():
        pytest.skip(f"no real data at {DATA / CT}: set SLTOOL_TEST_DATA")
    for name in ("COVID", "non-COVID"):
        (folder / name).mkdir(parents=True)
        for path in sorted((DATA / CT / name).glob("*.png"))[start::8][:each]:
            (folder / name / path.name).symlink_to(path.resolve())
    return folder


def settings(sltool: Sltool) -> dict[str, Any]:
    return dict(yaml.safe_load((sltool.folder / "study.yaml").read_text(encoding="utf-8")))


def images(sltool: Sltool, tmp_path: Path, *more: str) -> Sltool:
    source = scans(tmp_path / "scans", 60)
    options = [word for setting in more for word in ("--set", setting)]
    size = ("--set", "dataset.size=32", "--set", "training.epochs=2")
    sltool("prepare", "covid-ct", "--source", source, *size, *options).ok()
    return sltool


def test_images_of_one_bit_a_value_end_to_end(sltool: Sltool, tmp_path: Path) -> None:
    images(sltool, tmp_path)("partition", "--ratios", "3:1").ok()
    ran = sltool("fit-privacy-layer", "--site", "A", *SMALL, "--channels", 8, "--json").ok()
    assert ran.json["fitted_on"] == "A"
    assert ran.json["bytes_per_sample"] == 16
    assert 0 <= ran.json["adversary_leak"] < 1
    assert "handed to all sites and the server" in ran.err
    study = settings(sltool)
    form = {"channels": 8, "size": 4, "widths": [8, 16, 16], "halve": "pool"}
    assert study["model"]["code"] == form
    assert study["encoding"]["bits"] == 1
    assert "# Channels of each hidden layer" in (sltool.folder / "study.yaml").read_text()
    sltool("partition", "--ratios", "3:1").ok()
    sltool("client-encode").ok()
    sltool("ship").ok()
    maps = shipped(sltool)
    assert maps.shape[1:] == (8, 4, 4)
    assert set(np.unique(maps)) == {-1.0, 1.0}
    assert sltool("server-train", "--json").ok().json["samples"] > 0
    accuracy = sltool("evaluate", "--json").ok().json["metrics"]["accuracy"]
    assert 0 <= accuracy <= 1
    found = sltool("audit", "--site", "A", "--json").ok().json
    assert found["leak"] < 0.6
    assert any("fitted on training samples of site A" in text for text in found["warnings"])
    record = json.loads((sltool.folder / "sites" / "A" / "audit.json").read_text())
    names = {attacker["name"] for attacker in record["attackers"]}
    assert {"dense-decoder", "conv-decoder", "optimisation"} <= names
    assert record["layer_fitted_on"]["site"] == "A"


def shipped(sltool: Sltool) -> np.ndarray:
    import sltool as front

    study = front.Study.open(sltool.folder)
    study.take_in()
    return study.feature_maps("train").maps


def test_a_table_with_fewer_values_and_noise_end_to_end(sltool: Sltool) -> None:
    sltool("prepare", "cholesterol", "--seed", 0, "--set", "training.epochs=2").ok()
    sltool("partition", "--site", "B").ok()
    sltool("fit-privacy-layer", "--site", "B", "--epochs", 3, "--seed", 0).ok()
    study = settings(sltool)
    assert study["model"]["code"]["channels"] == 2
    assert study["encoding"]["bits"] == 8
    assert study["encoding"]["noise"] == 0.2
    sltool("client-encode").ok()
    found = sltool("audit", "--json").ok().json
    assert found["exact_recovery"] == 0
    assert found["leak"] < 0.8
    record = json.loads((sltool.folder / "sites" / "B" / "audit.json").read_text())
    assert "closed-form" in {attacker["name"] for attacker in record["attackers"]}
    sltool("ship").ok()
    assert shipped(sltool).shape[1:] == (2,)
    sltool("server-train").ok()
    sltool("evaluate", "--metrics", "smape").ok()


def test_noise_that_a_study_has_set_stays(sltool: Sltool) -> None:
    """It may stand for an epsilon."""
    typed = ("encoding.clip=1", "encoding.noise=4")
    sltool("prepare", "cholesterol", "--seed", 0, "--set", *typed).ok()
    sltool("partition", "--site", "B").ok()
    sltool("fit-privacy-layer", "--site", "B", "--epochs", 1).ok()
    assert settings(sltool)["encoding"]["noise"] == 4
    sltool("fit-privacy-layer", "--site", "B", "--epochs", 1, "--noise", 2, "--channels", 1).ok()
    sltool("fit-privacy-layer", "--site", "B", "--epochs", 1).ok()
    again = settings(sltool)
    assert (again["encoding"]["noise"], again["model"]["code"]["channels"]) == (2, 1)


def test_a_row_of_single_bits_is_not_inverted_in_closed_form(sltool: Sltool) -> None:
    sltool("prepare", "cholesterol", "--seed", 0).ok()
    sltool("partition", "--site", "B").ok()
    sltool("fit-privacy-layer", "--site", "B", "--epochs", 1, "--bits", 1).ok()
    sltool("client-encode").ok()
    sltool("audit").ok()
    record = json.loads((sltool.folder / "sites" / "B" / "audit.json").read_text())
    assert "one bit determines no value" in record["left_out"]["closed-form"]


def test_on_public_data_before_there_are_sites(sltool: Sltool, tmp_path: Path) -> None:
    images(sltool, tmp_path)
    public = scans(tmp_path / "public", 30, start=1)
    ran = sltool("fit-privacy-layer", "--source", public, *SMALL, "--channels", 4, "--json").ok()
    assert ran.json["fitted_on"] == "public data"
    assert ran.json["samples"] == 60
    assert fitted_on(sltool.folder / "privacy-layer.safetensors") == {"site": "", "samples": 60}
    sltool("partition", "--site", "B").ok()
    sltool("client-encode").ok()
    assert not any("fitted on" in text for text in sltool("audit", "--json").ok().json["warnings"])


def test_on_public_images_without_labels(sltool: Sltool, tmp_path: Path) -> None:
    images(sltool, tmp_path)
    folder = scans(tmp_path / "public", 20, start=1) / "COVID"
    ran = sltool("fit-privacy-layer", "--auxiliary", folder, *SMALL, "--json").ok()
    assert ran.json["samples"] == 20
    assert settings(sltool)["encoding"]["bits"] == 1


def test_the_file_is_what_encodes(sltool: Sltool, tmp_path: Path) -> None:
    """Batch normalisation is fixed, whatever the batch; the same seed makes the same file."""
    images(sltool, tmp_path)("partition", "--site", "B").ok()
    path = sltool.folder / "privacy-layer.safetensors"
    files = []
    for _ in range(2):
        sltool("fit-privacy-layer", "--site", "B", *SMALL).ok()
        files.append(path.read_bytes())
    assert files[0] == files[1]
    folder = StudyFolder(sltool.folder)
    layer = load_privacy_layer(folder, load_study(folder))
    x = torch.randn(6, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer(x)[:1], layer(x[:1]), atol=1e-5, rtol=1e-5)
    with safe_open(path, "np") as file:
        assert list(file.metadata()) == ["feature_maps"]
    sltool("fit-privacy-layer", "--site", "B", *SMALL[:-2]).ok()
    assert path.read_bytes() != files[0]


def test_shards_of_the_present_layer_are_protected(trained: Sltool) -> None:
    before = (trained.folder / "privacy-layer.safetensors").read_bytes()
    ran = trained("fit-privacy-layer", "--site", "A", "--epochs", 1)
    assert ran.code == 2
    assert "shards of the present privacy layer" in ran.err
    assert "--force" in ran.err
    assert (trained.folder / "privacy-layer.safetensors").read_bytes() == before
    trained("fit-privacy-layer", "--site", "A", "--epochs", 1, "--force").ok()
    refused = trained("server-train", "--run", "again")
    assert refused.code == 3
    assert "does not fit the accepted shards" in refused.err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "exactly one of --site"),
        (("--site", "B", "--auxiliary", "x"), 2, "exactly one of --site"),
        (("--site", "A"), 2, "private.h5 does not exist yet"),
        (("--site", "B", "--bits", 3), 2, "encoding.bits"),
        (("--site", "B", "--size", 64), 2, "model.code.size is 64"),
        (("--site", "B", "--device", "gpu"), 2, "gpu"),
    ],
)
def test_what_is_refused(
    sltool: Sltool, tmp_path: Path, arguments: tuple[Any, ...], code: int, message: str
) -> None:
    source = two_classes(tmp_path / "made", 20, ("COVID", "non-COVID"), side=32)
    sltool("prepare", "covid-ct", "--source", source, "--set", "dataset.size=32").ok()
    sltool("partition", "--site", "B").ok()
    before = (sltool.folder / "study.yaml").read_text()
    ran = sltool("fit-privacy-layer", *arguments)
    assert ran.code == code, ran.err
    assert message in ran.err
    assert (sltool.folder / "study.yaml").read_text() == before


def test_data_that_no_layer_can_be_fitted_on(sltool: Sltool, tmp_path: Path) -> None:
    few = two_classes(tmp_path / "few", 6, ("COVID", "non-COVID"), side=32)
    sltool("prepare", "covid-ct", "--source", few, "--set", "dataset.size=32").ok()
    ran = sltool("fit-privacy-layer", "--source", few)
    assert ran.code == 3
    assert "too few" in ran.err
    enough = two_classes(tmp_path / "enough", 30, ("COVID", "non-COVID"), side=32)
    for path in (enough / "non-COVID").glob("image00[1-9].png"):
        path.unlink()
    for path in (enough / "non-COVID").glob("image0[12]*.png"):
        path.unlink()
    (enough / "non-COVID" / "image000.png").write_bytes(b"no picture")
    ran = sltool("fit-privacy-layer", "--source", enough)
    assert ran.code == 3
    assert "the same class" in ran.err


def test_a_model_that_cannot_follow_a_code(sltool: Sltool, tmp_path: Path) -> None:
    source = two_classes(tmp_path / "made", 20, ("COVID", "non-COVID"), side=64)
    sltool("prepare", "covid-ct", "--source", source, "--set", "model={name: vgg19}").ok()
    ran = sltool("fit-privacy-layer", "--source", source)
    assert ran.code == 2
    assert "vgg19 cannot follow a code" in ran.err


@pytest.mark.parametrize("model", ["covid-cnn", "resnet", "mlp"])
@pytest.mark.parametrize("size", [1, 4, 8])
@pytest.mark.parametrize("halve", ["stride", "pool"])
def test_the_models_that_can(model: str, size: int, halve: str) -> None:
    code = {"channels": 3, "size": size, "widths": [4, 5, 6], "halve": halve}
    halves = build(study_of({"name": model, "code": code}), seed=0)
    assert layer_steps(halves.privacy_layer, (1, 20, 28)) is not None  # for sites without torch
    codes = halves.privacy_layer.eval()(torch.randn(2, 1, 20, 28))
    assert codes.shape == (2, 3, size, size)
    assert halves.server_network(codes).shape == (2, 1)


def test_a_code_behind_embeddings() -> None:
    """Codes of categories are looked up before the code, and unknown to the server's layers."""
    model = {"name": "mlp", "code": {"channels": 2}, "embeddings": {2: [3, 4]}}
    halves = build(study_of(model, shape=(3,)), seed=0)
    assert "0.0.tables.2.weight" in halves.privacy_layer.state_dict()
    assert not [name for name in halves.server_network.state_dict() if "tables" in name]
    assert halves.server_network(halves.privacy_layer(torch.zeros(2, 3))).shape == (2, 1)


def study_of(model: dict[str, Any], shape: tuple[int, ...] = (1, 20, 28), **more: Any) -> Study:
    labels = {"kind": "binary", "classes": ["no", "yes"]}
    samples = {"shape": shape, "mean": [0.0] * shape[0], "sd": [1.0] * shape[0], "labels": labels}
    content = {"id": "0" * 32, "dataset": {"name": "covid-ct"}, "samples": samples, "model": model}
    return Study.model_validate({**content, **more})


def test_the_adversary_makes_the_code_forget_what_the_task_does_not_need() -> None:
    """The label follows from the first column; the noise bounds what else the code can hold."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(600, 6)).astype(np.float32)
    data = FitData(rows, (rows[:, 0] > 0).astype(np.int64))
    code = {"name": "mlp", "code": {"channels": 4}}
    study = study_of(code, shape=(6,), encoding={"noise": 0.3})
    others = []
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        layer = build(study, seed=0).privacy_layer
        options = FitOptions(epochs=25, weight=weight, distance_weight=0)
        fit = fit_layer(layer, study, data, options, torch.device("cpu"), Silent())
        assert fit.task > 0.8
        with torch.no_grad():
            codes = as_shipped(layer(torch.from_numpy(rows)), study.encoding).numpy()
        known = explained(codes, rows)
        assert known[0] > 0.7
        others.append(known[1:].mean())
    assert others[1] < 0.5 * others[0]


def explained(codes: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The share of each column's variance that a quadratic function of the codes explains."""
    design = np.c_[codes, codes**2, np.ones(len(codes))]
    residual = rows - design @ np.linalg.lstsq(design, rows, rcond=None)[0]
    return np.asarray(1 - residual.var(axis=0) / rows.var(axis=0))


def test_distance_correlation_agrees_with_the_audits() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3)).astype(np.float32)
    z = (x[:, :2] + 0.5 * rng.normal(size=(300, 2))).astype(np.float32)
    ours = float(distance_correlation(torch.from_numpy(x), torch.from_numpy(z)))
    assert ours**0.5 == pytest.approx(measures.distance_correlation(x, z), abs=0.05)
    alone = torch.from_numpy(rng.normal(size=(300, 2)).astype(np.float32))
    assert float(distance_correlation(torch.from_numpy(x), alone)) < 0.1


def test_an_old_study_file_gets_the_keys_that_it_lacks(sltool: Sltool) -> None:
    sltool("prepare", "cholesterol", "--seed", 0).ok()
    sltool("partition", "--site", "B").ok()
    path = sltool.folder / "study.yaml"
    new = ("  bits:", "  range:", "  code:")
    lines = [line for line in path.read_text().splitlines(True) if not line.startswith(new)]
    path.write_text("".join(lines) + "# the end\n")
    sltool("fit-privacy-layer", "--site", "B", "--epochs", 1).ok()
    study = settings(sltool)
    assert study["encoding"]["bits"] == 8
    assert study["model"]["code"]["channels"] == 2
    assert "# the end" in path.read_text()
