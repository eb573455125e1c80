"""`sltool reproduce`: real comparisons on the bundled patients and on a few real CT slices."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sltool.study.layout import StudyFolder
from sltool.study.study_file import load_study
from tests.conftest import Sltool

pytest.importorskip("matplotlib", reason="pictures need sltool[report]")

FEW = ("--set", "training.epochs=3", "training.batch_size=64", "model.widths=[8, 8]")
ALL_ARMS = (
    *("multi", "single:A", "single:B", "single:C", "pooled", "federated", "online", "boosting"),
    *("friedewald", "martin-hopkins", "sampson"),
)


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return found


def predictions(folder: Path, arm: str, cell: str = "base", seed: int = 0) -> pd.DataFrame:
    path = folder / "cells" / cell / f"seed-{seed}" / "arms" / arm.replace(":", "-")
    return pd.read_csv(path / "predictions.csv").sort_values("pseudonym", ignore_index=True)


def test_without_matplotlib_nothing_is_trained(
    sltool: Sltool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    failed = sltool("reproduce", "cholesterol", "--arms", "friedewald", "--seeds", 1)
    assert failed.code == 2
    assert "a report with pictures needs matplotlib" in failed.err
    assert 'pip install "sltool[report]"' in failed.err
    assert not any(sltool.folder.rglob("*.csv"))


@pytest.mark.slow
def test_all_arms_share_the_test_rows(sltool: Sltool) -> None:
    done = sltool("reproduce", "cholesterol", "--seeds", 1, *FEW, "--json").ok()
    out = sltool.folder / "reproduction" / "cholesterol"
    assert [arm["arm"] for arm in done.json["arms"]] == list(ALL_ARMS)
    multi = predictions(out, "multi")
    assert len(multi) == 44
    for arm in ALL_ARMS:
        other = predictions(out, arm)
        assert other[["pseudonym", "y_true"]].equals(multi[["pseudonym", "y_true"]]), arm
    # The bundled patients' LDL was computed with Friedewald's formula.
    by_arm = {arm["arm"]: arm["metrics"]["smape"]["mean"] for arm in done.json["arms"]}
    assert by_arm["friedewald"] == pytest.approx(0, abs=0.001)
    assert by_arm["friedewald"] < min(v for arm, v in by_arm.items() if arm != "friedewald")
    for name in ("report.html", "results.csv", "figures/bars.png", "figures/errors.svg"):
        assert (out / name).stat().st_size > 0
    assert not any(out.glob("cells/*/*/study"))


@pytest.mark.parametrize(("recipe", "batch_size"), [("best", 16), ("paper", 2048)])
def test_the_recipes_are_those_of_prepare(sltool: Sltool, recipe: str, batch_size: int) -> None:
    typed = ("reproduce", "cholesterol", "--arms", "friedewald", "--seeds", 1, "--out", "out")
    sltool(*typed, "--recipe", recipe).ok()
    facts = json.loads((sltool.folder / "out/cells/base/seed-0/cell.json").read_text())
    sltool("prepare", "cholesterol", "--recipe", recipe).ok()
    study = load_study(StudyFolder(sltool.folder))
    assert facts["training"] == study.training.model_dump(mode="json")
    assert facts["model"] == study.model.model_dump(mode="json")
    assert (facts["recipe"], facts["training"]["batch_size"]) == (recipe, batch_size)
    other = {"best": "paper", "paper": "best"}[recipe]
    ran = sltool(*typed, "--recipe", other)
    assert ran.code == 2
    assert f"has the recipe {recipe}, not {other}" in ran.err


@pytest.mark.slow
def test_every_way_of_training_augments(sltool: Sltool) -> None:
    arms = ("multi", "pooled", "federated", "online")
    mixup = ("--set", "training.augment.mixup=0.4")
    typed = ("reproduce", "cholesterol", "--seeds", 1, "--arms", *arms)
    sltool(*typed, "--out", "plain", *FEW).ok()
    sltool(*typed, "--out", "mixed", *FEW, *mixup).ok()
    for arm in arms:
        plain, mixed = (predictions(sltool.folder / out, arm) for out in ("plain", "mixed"))
        assert not plain["y_pred"].equals(mixed["y_pred"]), arm


@pytest.mark.slow
def test_sites_that_differ_are_swept_and_resumed(sltool: Sltool) -> None:
    typed = ("reproduce", "cholesterol", *FEW, "--seeds", 1, "--out", "out", "--sweep", "sites=12")
    arms = ("--arms", "multi", "federated", "single", "pooled")
    sltool(*typed, "skew=0.1", *arms).ok()
    out = sltool.folder / "out"
    first = out / "cells" / "sites=12,skew=0.1" / "seed-0"
    written_at = (first / "arms" / "federated" / "predictions.csv").stat().st_mtime_ns
    done = sltool(*typed, "skew=0.1,iid", *arms, "--json").ok()
    assert (first / "arms" / "federated" / "predictions.csv").stat().st_mtime_ns == written_at
    assert [(arm["arm"], arm["sweep"]["skew"]) for arm in done.json["arms"]] == [
        (arm, skew)
        for skew in ("0.1", "iid")
        for arm in ("multi", "federated", "single:1", "pooled")
    ]
    facts = json.loads((first / "cell.json").read_text(encoding="utf-8"))
    assert facts["division"] == "12 simulated sites, sizes equal, labels skewed with alpha 0.1"
    assert list(facts["counts"])[::11] == ["A", "L"]
    changes = {
        arm["arm"]: arm["against_baseline"]
        for arm in done.json["arms"]
        if arm["sweep"]["skew"] == "0.1"
    }
    assert all(0 <= changes[arm]["rmsle"]["p"] <= 1 for arm in changes)
    assert not any(arm["against_baseline"] for arm in done.json["arms"][4:])
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "By skew" in page
    assert "Change from skew iid" in page
    assert re.search("12 sites, each with [0-9]+ to [0-9]+ train", page)
    assert (out / "figures" / "sweep.png").stat().st_size > 0


@pytest.mark.slow
def test_an_interrupted_comparison_resumes(sltool: Sltool) -> None:
    typed = ("reproduce", "cholesterol", *FEW, "--out", "out", "--sweep", "cut=0..1")
    sltool(*typed, "--seeds", 1, "--arms", "multi", "friedewald").ok()
    arms = sltool.folder / "out" / "cells" / "cut=1" / "seed-0" / "arms"
    written_at = (arms / "multi" / "predictions.csv").stat().st_mtime_ns
    # As if the process had been killed before the last arm finished.
    (arms / "friedewald" / "arm.json").unlink()
    done = sltool(*typed, "--seeds", 2, "--arms", "multi", "friedewald", "--json").ok()
    assert (arms / "multi" / "predictions.csv").stat().st_mtime_ns == written_at
    assert (arms / "friedewald" / "arm.json").exists()
    assert [(arm["arm"], arm["sweep"], arm["seeds"]) for arm in done.json["arms"]] == [
        (arm, {"cut": cut}, [0, 1]) for cut in ("0", "1") for arm in ("multi", "friedewald")
    ]
    assert done.err.count("note: precision") == 1
    # The cell was made again, with new pseudonyms, but for the same patients.
    formula = next(arm for arm in done.json["arms"] if arm["arm"] == "friedewald")
    assert formula["against_reference"]["rmsle"]["p"] > 0
    records = [
        pd.read_csv(arms.parent.with_name(f"seed-{seed}") / "records.csv") for seed in (0, 1)
    ]
    assert set(records[0]["patient"]) & set(records[1]["patient"])
    page = (sltool.folder / "out" / "report.html").read_text()
    beside = page.partition("Comparison with the paper")[2].partition("</table>")[0]
    assert beside.count(">multi, cut 0<") == beside.count(">multi, cut 1<") == 3
    refused = sltool(*typed, "--seeds", 1, "--set", "training.epochs=4")
    assert refused.code == 2
    assert "--force" in refused.err


@pytest.mark.slow
def test_what_online_learns_the_frozen_layer_does_not(sltool: Sltool) -> None:
    """At cut 0 nothing stands at the sites, so nothing can be frozen: online is pooled."""
    sltool(
        *("reproduce", "cholesterol", "--seeds", 1, *FEW, "--out", "out", "--sweep", "cut=0,1"),
        *("--arms", "multi", "online", "pooled"),
    ).ok()
    out = sltool.folder / "out"
    frozen, learning = (predictions(out, arm, "cut=1") for arm in ("multi", "online"))
    assert not frozen["y_pred"].equals(learning["y_pred"])
    multi, pooled = (predictions(out, arm, "cut=0") for arm in ("multi", "pooled"))
    assert multi["y_pred"].tolist() == pytest.approx(pooled["y_pred"].tolist(), rel=1e-4)


@pytest.mark.slow
def test_one_site_federated_is_pooled_training(sltool: Sltool) -> None:
    """The mean of one site's weights is that site's weights: only the order of rows differs."""
    done = sltool(
        *("reproduce", "cholesterol", "--seeds", 1, "--out", "out", "--ratios", "1"),
        *("--set", "training.epochs=20", "--arms", "pooled", "federated", "single:B", "--json"),
    ).ok()
    figures = {arm["arm"]: arm["metrics"]["smape"]["mean"] for arm in done.json["arms"]}
    assert figures["federated"] == pytest.approx(figures["pooled"], rel=0.25)
    assert "no site B" in done.json["left_out"]["single:B"]


@pytest.mark.slow
def test_stateless_sites_forget_their_optimiser_after_each_round(sltool: Sltool) -> None:
    for epochs in (1, 3):
        sltool(
            *("reproduce", "cholesterol", "--seeds", 1, "--out", f"out-{epochs}"),
            *("--set", f"training.epochs={epochs}"),
            *("--arms", "federated", "federated-stateless"),
        ).ok()
        stateful, stateless = (
            predictions(sltool.folder / f"out-{epochs}", arm, "base")
            for arm in ("federated", "federated-stateless")
        )
        assert stateful["y_pred"].equals(stateless["y_pred"]) == (epochs == 1)


@pytest.mark.slow
def test_in_fewer_rounds_the_sites_meet_less_often(sltool: Sltool) -> None:
    done = sltool(
        *("reproduce", "cholesterol", "--seeds", 1, "--out", "out", "--json"),
        *("--set", "training.epochs=5"),
        *("--arms", "federated", "federated:5", "federated:2", "federated:6"),
    ).ok()
    every, five, two = (
        predictions(sltool.folder / "out", f"federated{n}") for n in ("", "-5", "-2")
    )
    assert five.equals(every)
    assert not two["y_pred"].equals(every["y_pred"])
    history = pd.read_csv(
        sltool.folder / "out" / "cells" / "base" / "seed-0" / "arms" / "federated-2" / "history.csv"
    )
    assert history["epoch"].tolist() == [2, 5]
    assert done.json["left_out"] == {"federated:6": "5 epochs cannot make 6 rounds"}


def test_mistakes_are_reported(sltool: Sltool) -> None:
    wrong = sltool("reproduce", "cholestrol")
    assert wrong.code == 2
    assert "did you mean 'cholesterol'" in wrong.err
    for arm in ("federated:0", "federated:many", "pooled:2", "single:"):
        assert "unknown arm" in sltool("reproduce", "cholesterol", "--arms", arm).err
    wrong = sltool("reproduce", "cholesterol", "--arms", "mutli")
    assert wrong.code == 2
    assert "did you mean 'multi'" in wrong.err


@pytest.fixture
def slices(data: Callable[[str], Path], tmp_path: Path) -> Path:
    """Sixty real chest CT slices of each class."""
    source = data("covid-ct-sao-paulo")
    for name in ("COVID", "non-COVID"):
        folder = tmp_path / "slices" / name
        folder.mkdir(parents=True)
        for path in sorted((source / name).glob("*.png"))[:60]:
            (folder / path.name).symlink_to(path)
    return tmp_path / "slices"


@pytest.mark.slow
def test_a_forgotten_source_can_be_given_the_next_time(sltool: Sltool, slices: Path) -> None:
    call = ("reproduce", "covid-ct", "--seeds", 1, "--arms", "single:A")
    quick = ("--set", "training.epochs=1", "encoding.views=1", "dataset.size=32")
    forgotten = sltool(*call, *quick)
    assert forgotten.code == 2
    assert "give --source PATH" in forgotten.err
    sltool(*call, *quick, "--source", slices).ok()
    other = sltool(*call, *quick, "dataset.pad=true", "--source", slices)
    assert other.code == 2
    assert "the comparison there has the settings" in other.err


@pytest.mark.slow
def test_a_comparison_knows_its_source_by_its_files(sltool: Sltool, slices: Path) -> None:
    call = ("reproduce", "covid-ct", "--seeds", 1, "--arms", "single:A", "--out", "out")
    quick = ("--set", "training.epochs=1", "encoding.views=1", "dataset.size=32")
    sltool(*call, *quick, "--source", slices).ok()
    record = sltool.folder / "out" / "source.json"
    assert record.stat().st_mode & 0o077 == 0
    elsewhere = slices.rename(slices.with_name("elsewhere"))
    sltool(*call, *quick, "--source", elsewhere).ok()
    # Another source of the same base name.
    other = slices.parent / "other" / "elsewhere"
    for name in ("COVID", "non-COVID"):
        (other / name).mkdir(parents=True)
        for path in sorted((elsewhere / name).iterdir())[1:]:
            (other / name / path.name).symlink_to(path.resolve())
    refused = sltool(*call, *quick, "--source", other)
    assert refused.code == 2
    gone = min((elsewhere / "COVID").iterdir()).name
    assert f"made from another source: 2 files removed (COVID/{gone}, non-COVID/" in refused.err
    assert "--force" in refused.err
    out = sltool.folder / "out"
    for path in (out / "report.html", out / "results.json", out / "comparison.json"):
        assert gone not in path.read_text()


@pytest.mark.slow
def test_ct_slices(sltool: Sltool, slices: Path) -> None:
    done = sltool(
        *("reproduce", "covid-ct", "--source", slices, "--seeds", 1, "--out", "out", "--json"),
        *("--arms", "multi", "single:C", "federated", "online", "pooled"),
        *("--set", "training.epochs=2", "encoding.views=2", "dataset.size=32"),
    ).ok()
    assert done.json["left_out"] == {}
    assert any("one patient" in text for text in done.json["warnings"])
    out = sltool.folder / "out"
    for name in ("bars", "curves", "roc", "calibration", "feature-maps"):
        for kind in ("png", "svg"):
            assert (out / "figures" / f"{name}.{kind}").stat().st_size > 0
    for name in ("bars", "curves", "feature-maps"):
        assert (out / "figures" / f"{name}-narrow.png").stat().st_size > 0
    history = out / "cells" / "base" / "seed-0" / "arms" / "federated" / "history.csv"
    assert {"epoch", "train_loss", "validation_loss", "validation_accuracy"} <= set(
        pd.read_csv(history).columns
    )
    wrong = sltool("reproduce", "covid-ct", "--source", slices, "--arms", "boosting")
    assert wrong.code == 2
    assert "table rows" in wrong.err


@pytest.mark.parametrize("arm", ["multi", "federated", "online"])
def test_an_arm_that_diverges_is_reported_and_has_no_figures(sltool: Sltool, arm: str) -> None:
    fast = ("training.optimizer=sgd", "training.learning_rate=1e30")
    ran = sltool("reproduce", "cholesterol", *FEW, *fast, "--seeds", 1, "--arms", arm)
    assert ran.code == 7, ran.err
    assert "training diverged" in ran.err
    assert "training.learning_rate below 1e+30" in ran.err
    assert not list(sltool.folder.glob(f"**/arms/{arm}/arm.json"))


@pytest.mark.slow
def test_a_site_with_a_single_training_sample_takes_part(sltool: Sltool, slices: Path) -> None:
    """Batch normalisation of 1x1 maps has no statistics of a single sample."""
    done = sltool(
        *("reproduce", "covid-ct", "--source", slices, "--seeds", 1, "--out", "out", "--json"),
        *("--arms", "federated", "single:1", "--sweep", "sites=20", "quantity-skew=2"),
        *(
            "--set",
            "training.epochs=1",
            "encoding.views=1",
            "dataset.size=8",
            "model={name: resnet}",
        ),
    ).ok()
    assert [arm["samples"] for arm in done.json["arms"]] == [[96], [1]]


@pytest.mark.slow
def test_early_stopping_is_no_interruption(sltool: Sltool) -> None:
    settings = ("training.patience=1", "training.epochs=40", "training.learning_rate=0.5")
    quick = ("--arms", "multi", "--seeds", 1, "--set", *settings, "model.widths=[8, 8]")
    ran = sltool("reproduce", "cholesterol", *quick, "--json").ok()
    assert [arm["arm"] for arm in ran.json["arms"]] == ["multi"]
