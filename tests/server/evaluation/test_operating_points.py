"""`evaluate --at`: thresholds from validation samples, their figures on test samples."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sltool.errors import BadDataError, UsageError
from sltool.server.evaluation.calibration import (
    calibrated,
    expected_calibration_error,
    fit_temperature,
)
from sltool.server.evaluation.operating_points import Target, choose_threshold, read_points
from sltool.server.evaluation.proportions import Proportion, predictive_values
from sltool.study.layout import Question, StudyFolder
from tests.conftest import Sltool


def run_folder(sltool: Sltool) -> Path:
    return sltool.folder / "server" / "runs" / "default"


def table(path: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], list[str]]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    y_true = np.array([float(row["y_true"]) for row in rows])
    return y_true, np.array([float(row["y_pred"]) for row in rows]), [row["site"] for row in rows]


def test_thresholds_hold_on_validation_and_are_reported_on_test(ct: Sltool) -> None:
    wanted = ("--at", "sensitivity=0.95", "specificity=0.9", "--prevalence", "0.1")
    ran = ct("evaluate", *wanted, "--by", "site", "--json").ok().json["operating_points"]
    assert json.loads((run_folder(ct) / "operating-points.json").read_text()) == ran
    ct("evaluate", "--split", "validation").ok()
    validation = table(run_folder(ct) / "predictions-validation.csv")
    test = table(run_folder(ct) / "predictions.csv")
    assert ran["positive"] == "COVID"
    for point in ran["points"]:
        for (y_true, y_pred, _), figures in (
            (validation, point["validation"]),
            (test, point["test"]),
        ):
            called = y_pred >= point["threshold"]
            assert figures["sensitivity"]["value"] == pytest.approx(called[y_true == 1].mean())
            assert figures["specificity"]["value"] == pytest.approx(1 - called[y_true == 0].mean())
            assert figures["positives"] == (y_true == 1).sum()
        assert point["validation"][point["metric"]]["value"] >= point["wanted"]
        hit, passed = (point["test"][name]["value"] for name in ("sensitivity", "specificity"))
        expected = hit * 0.1 / (hit * 0.1 + (1 - passed) * 0.9)
        assert point["test"]["ppv"]["value"] == pytest.approx(expected)
        for name in ("sensitivity", "specificity", "ppv", "npv"):
            figure = point["test"][name]
            assert figure["low"] <= figure["value"] <= figure["high"]
        assert set(point["by_site"]) == {"A", "B", "C"}
        assert sum(site["samples"] for site in point["by_site"].values()) == len(test[0])


def test_the_default_prevalence_is_the_samples_own_and_is_shown(ct: Sltool) -> None:
    ran = ct("evaluate", "--at", "sensitivity=0.9", "--json").ok().json["operating_points"]
    y_true, y_pred, _ = table(run_folder(ct) / "predictions.csv")
    called = y_pred >= ran["points"][0]["threshold"]
    assert ran["points"][0]["test"]["ppv"]["value"] == pytest.approx(y_true[called].mean())
    out = ct("evaluate", "--at", "sensitivity=0.9", "--by", "site").ok().out
    assert f"{y_true.mean():.3f}" in out
    assert "site C" in out


def test_other_questions_have_files_of_their_own(ct: Sltool) -> None:
    ct("evaluate", "--at", "sensitivity=0.9").ok()
    before = (run_folder(ct) / "operating-points.json").read_bytes()
    ct("evaluate", "--at", "sensitivity=0.5", "--sites", "A").ok()
    assert (run_folder(ct) / "operating-points.json").read_bytes() == before
    alone = json.loads((run_folder(ct) / "operating-points-test@A.json").read_text())
    assert alone["sites"] == ["A"]


def test_the_other_class_has_the_complement_as_score(ct: Sltool) -> None:
    ran = ct("evaluate", "--at", "sensitivity=0.9", "--class", "non-COVID", "--json").ok().json
    point = ran["operating_points"]["points"][0]
    y_true, y_pred, _ = table(run_folder(ct) / "predictions.csv")
    called = 1 - y_pred >= point["threshold"]
    assert point["test"]["sensitivity"]["value"] == pytest.approx(called[y_true == 0].mean())


def test_points_of_an_earlier_model_are_not_read(ct: Sltool) -> None:
    ct("evaluate", "--at", "sensitivity=0.9").ok()
    run = StudyFolder(ct.folder).run("default")
    points = read_points(run, Question())
    assert points
    assert points["points"][0]["name"] == "sensitivity=0.9"
    ct("server-train", "--force", "--seed", "1").ok()
    assert read_points(run, Question()) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--at", "recall=0.9"), "'recall=0.9' is not an operating point"),
        (("--at", "sensitivity=95"), "'sensitivity=95' is not an operating point"),
        (("--at", "sensitivity=0.9", "--class", "flu"), "unknown class 'flu'"),
        (("--at", "sensitivity=0.9", "--prevalence", "1"), "a prevalence of 1"),
        (("--at", "sensitivity=0.9", "--split", "validation"), "--split test"),
        (("--prevalence", "0.1"), "none is asked for"),
    ],
)
def test_wrong_options_are_refused(ct: Sltool, options: tuple[str, ...], message: str) -> None:
    ran = ct("evaluate", *options)
    assert ran.code == 2
    assert message in ran.err
    assert not (run_folder(ct) / "operating-points.json").exists()


def test_a_value_has_no_operating_point(trained: Sltool) -> None:
    ran = trained("evaluate", "--at", "sensitivity=0.95")
    assert ran.code == 2
    assert "'cholesterol' predicts a value" in ran.err


def test_several_classes_need_one_that_is_told_from_the_rest(
    sltool: Sltool, data: Callable[[str], Path]
) -> None:
    source = sltool.folder / "cifar"
    source.mkdir()
    for name in ("data_batch_1.bin", "test_batch.bin"):
        whole = data(f"cifar-10-batches-bin/{name}").read_bytes()
        (source / name).write_bytes(whole[: 300 * 3073])
    sltool(
        *("prepare", "cifar10", "--source", "cifar", "--seed", "0"),
        *("--set", "training.epochs=1", "model.name=covid-cnn", "model.filters=[2,4]"),
    ).ok()
    for stage in ("partition", "client-encode", "ship", "server-train"):
        sltool(stage).ok()
    refused = sltool("evaluate", "--at", "sensitivity=0.8")
    assert refused.code == 2
    assert "--class, one of airplane" in refused.err
    ran = sltool("evaluate", "--at", "sensitivity=0.8", "--class", "ship", "--json").ok().json
    point = ran["operating_points"]["points"][0]
    with (run_folder(sltool) / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    scores = np.array([float(row["y_pred_ship"]) for row in rows])
    ships = np.array([row["y_true"] == "8" for row in rows])
    assert point["test"]["sensitivity"]["value"] == pytest.approx(
        (scores[ships] >= point["threshold"]).mean()
    )


def test_validation_without_a_positive_is_an_error_that_says_so(ct: Sltool) -> None:
    """A site of healthy people alone."""
    from sltool.server.store import open_store
    from sltool.study.study_file import load_study

    folder = StudyFolder(ct.folder)
    store = open_store(folder, load_study(folder))
    labels = store.samples("validation").labels
    np.zeros(len(labels), np.int64).tofile(store.folder / "validation.labels")
    ran = ct("evaluate", "--at", "sensitivity=0.95")
    assert ran.code == 3
    assert "no validation sample is of the class 'COVID'" in ran.err


def test_the_threshold_costs_least_of_the_other_metric() -> None:
    scores = np.array([0.1, 0.2, 0.3, 0.4, 0.6, 0.8])
    positive = np.array([False, False, True, False, True, True])
    sensitive = Target("sensitivity", 0.6)
    assert choose_threshold(sensitive, positive, scores) == pytest.approx(0.5)
    assert choose_threshold(Target("sensitivity", 1.0), positive, scores) == pytest.approx(0.25)
    assert choose_threshold(Target("specificity", 0.6), positive, scores) == pytest.approx(0.25)
    assert choose_threshold(Target("specificity", 1.0), positive, scores) == pytest.approx(0.5)


def test_a_specificity_out_of_reach_is_an_error() -> None:
    with pytest.raises(BadDataError, match="no threshold reaches a specificity"):
        choose_threshold(Target("specificity", 0.9), np.array([True, False]), np.array([0.5, 0.5]))


@pytest.mark.parametrize("text", ["sensitivity", "sensitivity=", "sensitivity=0", "=0.5"])
def test_a_target_that_does_not_parse(text: str) -> None:
    with pytest.raises(UsageError):
        Target.parse(text)


def test_the_temperature_that_made_probabilities_too_confident_is_found() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, 20_000)
    y_true = (rng.random(20_000) < 1 / (1 + np.exp(-logits))).astype(float)
    confident = 1 / (1 + np.exp(-3 * logits))
    temperature = fit_temperature(y_true, confident)
    assert temperature == pytest.approx(3, rel=0.05)
    cured = calibrated(confident, temperature)
    assert expected_calibration_error(y_true, confident) > 0.05
    assert expected_calibration_error(y_true, cured) < 0.02
    columns = np.stack([1 - confident, confident], axis=1)
    assert fit_temperature(y_true, columns) == pytest.approx(temperature)
    np.testing.assert_allclose(calibrated(columns, temperature)[:, 1], cured)


def test_no_temperature_fits_what_is_always_right() -> None:
    y_true = np.array([0.0, 1, 1])
    right = np.array([0.2, 0.7, 0.9])
    assert fit_temperature(y_true, right) is None
    assert calibrated(right, None) is right
    assert fit_temperature(y_true, 1 - right) is None


def test_intervals_of_proportions() -> None:
    """Wilson's, as in Newcombe, "Two-sided confidence intervals", 1998, table I: 81 of 263."""
    right = np.arange(263) < 81
    figure = Proportion.of(right, np.arange(263))
    assert figure
    assert figure.estimate().low == pytest.approx(0.2553, abs=1e-4)
    assert figure.estimate().high == pytest.approx(0.3662, abs=1e-4)


def test_rows_of_a_patient_count_as_fewer() -> None:
    right = np.repeat(np.arange(40) % 4 > 0, 5)
    patients = np.repeat(np.arange(40), 5)
    clustered, independent = (
        Proportion.of(right, groups) for groups in (patients, np.arange(len(right)))
    )
    assert clustered
    assert independent
    assert independent.effective == pytest.approx(200)
    assert clustered.effective == pytest.approx(40, rel=0.05)
    perfect = Proportion.of(np.ones(200, bool), patients)
    assert perfect
    assert (perfect.effective, perfect.estimate().high) == (40, 1)
    assert perfect.estimate().low < 0.92


def test_intervals_of_sensitivity_and_ppv_cover_the_truth() -> None:
    """At a true sensitivity of 0.95, where draws of a bootstrap are often all 1."""
    rng = np.random.default_rng(0)
    covered = np.zeros(2)
    truth = 0.95 * 0.1 / (0.95 * 0.1 + 0.1 * 0.9)
    for _ in range(1000):
        hit, passed = rng.random(30) < 0.95, rng.random(60) < 0.9
        sensitivity = Proportion.of(hit, np.arange(30))
        specificity = Proportion.of(passed, np.arange(60))
        assert sensitivity
        ppv, _ = predictive_values(sensitivity, specificity, 0.1)
        assert ppv.low is not None
        assert ppv.high is not None
        own = sensitivity.estimate()
        covered += [own.low <= 0.95 <= own.high, ppv.low <= truth <= ppv.high]
    assert (covered >= 930).all(), covered


def test_figures_without_positives_are_not_defined() -> None:
    assert Proportion.of(np.empty(0, bool), np.empty(0, np.int64)) is None
    specificity = Proportion.of(np.ones(5, bool), np.arange(5))
    assert predictive_values(None, specificity, 0.1)[0].value is None
