"""`sltool audit`: layers whose leak is known, real images, and the files that it writes."""

from __future__ import annotations

import html
import json
import stat
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from sltool.site.audit import attacker
from sltool.site.audit.patients import by_similarity, hold_out
from tests.conftest import DATA, Sltool
from tests.images import two_classes

CT = "covid-ct-sao-paulo"


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Budgets small enough for a test."""
    small = attacker.Budget("quick", 300, 60, steps=32, descent=32, optimised=8, rows=20_000)
    monkeypatch.setitem(attacker.BUDGETS, "quick", small)


def scans(folder: Path, each: int) -> Path:
    """Some of the real slices, in the source's layout."""
    if not (DATA / CT).exists():
        pytest.skip(f"no real data at {DATA / CT}: set SLTOOL_TEST_DATA")
    for name in ("COVID", "non-COVID"):
        (folder / name).mkdir(parents=True)
        for path in sorted((DATA / CT / name).glob("*.png"))[::4][:each]:
            (folder / name / path.name).symlink_to(path.resolve())
    return folder


def encoded(sltool: Sltool, dataset: str, *settings: str, source: Path | None = None) -> Sltool:
    """A study of one simulated site, A, with shards in the outbox; all but noise is seeded."""
    extra = ["--source", source] if source else []
    chosen = [f"--set={setting}" for setting in ("model.activation=leaky-relu", *settings)]
    sltool("prepare", dataset, "--recipe", "paper", "--seed", 0, *extra, *chosen).ok()
    sltool("partition", "--ratios", "1", "--seed", 0).ok()
    sltool("client-encode").ok()
    return sltool


def record(sltool: Sltool) -> dict[str, Any]:
    return json.loads((sltool.folder / "sites" / "A" / "audit.json").read_text())


def test_an_identity_layer_leaks_the_picture(sltool: Sltool, tmp_path: Path) -> None:
    source = scans(tmp_path / "scans", 100)
    encoded(sltool, "covid-ct", "dataset.size=32", "model.cut=0", source=source)
    found = sltool("audit", "--json").ok().json
    assert found["leak"] >= 0.95
    assert found["linkage_top1"] >= 0.9
    assert found["exact_recovery"] == 1


def test_pure_noise_leaks_nothing(sltool: Sltool, tmp_path: Path) -> None:
    source = scans(tmp_path / "scans", 100)
    encoded(sltool, "covid-ct", "dataset.size=32", "encoding.noise=1000.0", source=source)
    found = sltool("audit", "--json").ok().json
    assert abs(found["leak"]) <= 0.05
    assert found["linkage_top1"] < 0.15
    assert found["exact_recovery"] == 0
    # Of a few samples the estimate is far above 0, and the noise differs in each run.
    assert found["distance_correlation"] < 0.5


def test_the_mean_of_all_views_has_less_noise(sltool: Sltool, tmp_path: Path) -> None:
    """Views that differ by their noise alone: whoever has all of them gets more."""
    source = scans(tmp_path / "scans", 100)
    still = ("flip=false", "rotation=0", "crop=0", "brightness=0")
    views = ("views=16", "noise=4.0", *(f"augment.{setting}" for setting in still))
    settings = ("dataset.size=32", "model.cut=0", *(f"encoding.{setting}" for setting in views))
    encoded(sltool, "covid-ct", *settings, source=source)
    assert sltool("audit", "--json").ok().json["attack"].startswith("all-views-")
    found = record(sltool)
    leaks = {attacker["name"]: attacker["leak"]["value"] for attacker in found["attackers"]}
    of_one = max(leak for name, leak in leaks.items() if not name.startswith("all-views-"))
    assert found["leak"]["value"] > of_one + 0.1
    attacked = {attacker["name"]: attacker["attacked"] for attacker in found["attackers"]}
    # Validation and test samples have one view.
    assert 0 < attacked["all-views-conv-decoder"] < attacked["conv-decoder"]
    linked = {entry["name"]: entry["value"] for entry in found["inferences"]}
    assert linked["linkage_all_views_top1"] >= linked["linkage_top1"]


def test_one_view_is_attacked_alone(sltool: Sltool, tmp_path: Path) -> None:
    source = scans(tmp_path / "scans", 60)
    encoded(sltool, "covid-ct", "dataset.size=32", "encoding.views=1", source=source)
    sltool("audit").ok()
    found = record(sltool)
    assert found["left_out"]["all-views-dense-decoder"] == "one view of each sample was shipped"
    assert "linkage_all_views_top1" not in {entry["name"] for entry in found["inferences"]}


@pytest.mark.parametrize("activation", ["leaky-relu", "sigmoid"])
def test_a_dense_layer_with_more_outputs_than_inputs_is_inverted_exactly(
    sltool: Sltool, activation: str
) -> None:
    encoded(sltool, "cholesterol", f"model.activation={activation}", "encoding.dtype=float32")
    found = sltool("audit", "--json").ok().json
    assert found["attack"] == "closed-form"
    assert found["exact_recovery"] == 1
    assert found["leak"] > 0.9999
    assert found["ssim"] is None
    columns = record(sltool)["r2"]
    assert list(columns) == ["age", "sex", "bmi", "bp", "TC", "HDL", "TG"]
    assert min(columns.values()) > 0.999
    sex = next(
        inference for inference in record(sltool)["inferences"] if inference["name"] == "sex"
    )
    assert sex["value"] > 0.9 > sex["chance"]


def test_fewer_outputs_than_inputs_are_not_inverted_exactly(sltool: Sltool) -> None:
    encoded(sltool, "cholesterol", "model.widths=[2, 64, 64]")
    found = sltool("audit", "--json").ok().json
    assert found["exact_recovery"] < 0.1
    assert 0.1 < found["leak"] < 0.9


@pytest.mark.slow
def test_real_pictures_end_to_end(sltool: Sltool, tmp_path: Path) -> None:
    """The leak is between 0 and 1; public images of the same kind give almost the same."""
    source = scans(tmp_path / "scans", 120)
    wide = "model.filters=[16, 32, 64, 128, 256]"
    encoded(sltool, "covid-ct", "dataset.size=32", wide, source=source)
    ran = sltool("audit", "--auxiliary", DATA / CT / "COVID", "--json").ok()
    found = record(sltool)
    assert (
        found["leak"]["low"] <= ran.json["leak"] == found["leak"]["value"] <= found["leak"]["high"]
    )
    assert 0.5 < found["leak"]["value"] < 1
    names = [attacker["name"] for attacker in found["attackers"]]
    assert set(names) == {
        "ridge",
        "patch-ridge",
        "conv-decoder",
        "dense-decoder",
        "optimisation",
        "public-conv-decoder",
        "public-dense-decoder",
    }
    leaks = [attacker["leak"]["value"] for attacker in found["attackers"]]
    assert leaks == sorted(leaks, reverse=True)
    assert found["baselines"]["mean"]["leak"]["value"] == pytest.approx(0, abs=1e-6)
    assert "names no patients" in found["patients"]
    assert found["bound"]["noise"] == {"clip": None, "sd": 0.0}
    page = (sltool.folder / "sites" / "A" / "audit.html").read_text()
    assert page.count("data:image/png;base64,") == 3 * (1 + 4 + 1)
    assert "pseudonymised personal data" in found["sentence"]
    assert found["sentence"] in html.unescape(page)
    for name in ("audit.json", "audit.html"):
        mode = (sltool.folder / "sites" / "A" / name).stat().st_mode
        assert stat.S_IMODE(mode) == 0o600
    assert "already been audited" in sltool("audit").ok().err


def test_it_says_when_an_attack_had_not_converged(sltool: Sltool, tmp_path: Path) -> None:
    source = scans(tmp_path / "scans", 60)
    encoded(sltool, "covid-ct", "dataset.size=32", "model.cut=0", source=source)
    sltool("audit").ok()
    curves = {attacker["name"]: attacker for attacker in record(sltool)["attackers"]}
    ridge = curves["ridge"]
    gain = ridge["curve"][-1]["leak"] - ridge["curve"][-2]["leak"]
    assert gain > 0.02
    assert not ridge["converged"]
    assert curves["patch-ridge"]["converged"]


def test_data_that_cannot_be_audited_is_reported(sltool: Sltool, tmp_path: Path) -> None:
    source = two_classes(tmp_path / "few", 6, ("COVID", "non-COVID"), side=32)
    sltool("prepare", "covid-ct", "--source", source, "--set", "dataset.size=32").ok()
    sltool("partition", "--site", "B").ok()
    before = sltool("audit", "--site", "B")
    assert before.code == 2
    assert "client-encode --site B" in before.err
    sltool("client-encode").ok()
    few = sltool("audit", "--site", "B")
    assert few.code == 3
    assert "too few" in few.err


def test_near_duplicates_are_never_on_both_sides() -> None:
    rng = np.random.default_rng(0)
    patients = rng.random((40, 1, 24, 24), dtype=np.float32)
    slices = np.repeat(patients, 3, axis=0)
    slices += rng.normal(scale=0.05, size=slices.shape).astype(np.float32)
    grouping = by_similarity(slices)
    assert grouping.count == 40
    assert (grouping.groups.reshape(40, 3) == grouping.groups[::3, None]).all()
    held_out = hold_out(grouping.groups, 0.2, 100, rng)
    assert held_out.sum() == 24
    assert not set(grouping.groups[held_out]) & set(grouping.groups[~held_out])


def patients_found(sltool: Sltool, *lines: str) -> str:
    """What the audit says of the patients of a table with these lines."""
    source = sltool.folder / "rows.csv"
    source.write_text("\n".join(lines))
    sltool("prepare", "table", "--source", source, "--from-this-site", "--seed", 0).ok()
    sltool("partition", "--ratios", "1").ok()
    sltool("client-encode").ok()
    sltool("audit").ok()
    found: str = record(sltool)["patients"]
    return found


ROWS = [f"{20 + n},{(7 * n) % 40},{n % 2}" for n in range(50)]


def test_patients_are_named_though_each_has_a_single_row(sltool: Sltool) -> None:
    named = [f"P{n},{row}" for n, row in enumerate(ROWS)]
    assert patients_found(sltool, "patient,age,dose,label", *named) == (
        "50 patients as the source names them"
    )
    private = sltool.folder / "sites" / "A" / "private.h5"
    with h5py.File(private, "r+") as file:
        del file.attrs["names_patients"]  # As earlier versions wrote it.
    sltool("audit", "--force").ok()
    assert "names no patients" in record(sltool)["patients"]


def test_no_patients_are_named_without_a_column_of_them(sltool: Sltool) -> None:
    found = patients_found(sltool, "age,dose,label", *ROWS)
    assert found.startswith("the source names no patients: equal rows were grouped")


PLUGIN = """
from sltool.registry import attackers
from sltool.site.audit.attacker import Attempt, Reconstructor

@attackers.register("guess")
class Guess(Reconstructor):
    \"\"\"Guesses the mean row.\"\"\"

    def rebuild(self, scene):
        yield Attempt(1, scene.mean.repeat(len(scene.maps), axis=0))
"""


def test_an_attacker_can_be_a_plug_in(sltool: Sltool, tmp_path: Path) -> None:
    path = tmp_path / "guess.py"
    path.write_text(PLUGIN)
    encoded(sltool, "cholesterol")
    sltool("audit", "--plugins-dir", path).ok()
    guess = next(
        attacker for attacker in record(sltool)["attackers"] if attacker["name"] == "guess"
    )
    assert guess["leak"]["value"] == pytest.approx(0, abs=1e-6)
    listed = sltool("list", "attackers", "--plugins-dir", path, "--json").ok().json["attackers"]
    assert {"guess", "closed-form"} <= {attacker["name"] for attacker in listed}
