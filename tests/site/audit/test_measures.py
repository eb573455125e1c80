"""The audit's measures against known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sltool.site.audit import measures

RNG = np.random.default_rng(0)


def picture_pair(side: int) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:side, :side] / side
    first = 0.5 + 0.5 * np.sin(9 * x + 5 * y * y)
    second = np.clip(0.8 * first + 0.1 + 0.1 * np.cos(40 * x * y), 0, 1)
    return first[None, None], second[None, None]


@pytest.mark.parametrize(
    ("side", "similarity", "ratio"),
    [(64, 0.676133338871521, 20.179184742631513), (24, 0.8455544367196898, 20.166523806064593)],
)
def test_ssim_and_psnr_are_those_of_scikit_image(
    side: int, similarity: float, ratio: float
) -> None:
    """Values of scikit-image 0.26: `structural_similarity(a, b, data_range=1,
    gaussian_weights=True, sigma=1.5, use_sample_covariance=False)`, `peak_signal_noise_ratio`."""
    first, second = picture_pair(side)
    assert measures.ssim_of(first, second)[0] == pytest.approx(similarity, abs=1e-6)
    assert measures.psnr(first, second)[0] == pytest.approx(ratio, abs=1e-9)
    colour = np.concatenate([first, second, first], axis=1)
    mixed = np.concatenate([second, second, first], axis=1)
    expected = (similarity + 2) / 3
    assert measures.ssim_of(colour, mixed)[0] == pytest.approx(expected, abs=1e-6)


def test_small_images_have_an_ssim_too() -> None:
    images = RNG.random((3, 1, 6, 8))
    np.testing.assert_allclose(measures.ssim_of(images, images), 1)
    assert (measures.ssim_of(images, RNG.random(images.shape)) < 0.5).all()


def test_the_leak_runs_from_the_mean_image_to_the_picture() -> None:
    assert measures.leak(0.4, 0.4) == 0
    assert measures.leak(1.0, 0.4) == 1
    assert measures.leak(0.7, 0.4) == pytest.approx(0.5)


def test_r2_by_column_is_beside_what_the_attacker_would_guess() -> None:
    truth = np.array([[0.0, 1.0, 5.0], [2.0, 1.0, 5.0], [4.0, 3.0, 5.0]])
    guess = np.array([[2.0, 2.0, 5.0]])
    found = measures.r2_by_column(truth, np.array([[0.0, 2, 5], [2, 2, 5], [4, 2, 5]]), guess)
    np.testing.assert_allclose(found, [1, 0, np.nan])


def test_a_row_is_recovered_where_rounding_gives_it() -> None:
    known = np.stack([np.arange(10) / 5, RNG.normal(size=10)], axis=1)
    tolerance = measures.tolerances(known)
    assert tolerance[0] == pytest.approx(0.1)
    assert tolerance[1] >= 0.01
    truth = np.array([[0.4, 1.0], [0.4, 1.0], [0.4, 1.0]])
    rebuilt = truth + np.array([[0.09, 0], [0.11, 0], [0, tolerance[1] * 1.1]])
    assert measures.recovered_rows(truth, rebuilt, tolerance).tolist() == [True, False, False]


def test_an_image_is_recovered_below_one_grey_level() -> None:
    truth = RNG.random((2, 1, 8, 8))
    rebuilt = truth + np.array([0.9, 1.1]).reshape(2, 1, 1, 1) / 255
    assert measures.recovered_images(truth, rebuilt).tolist() == [True, False]


def test_distance_correlation_separates_independent_from_equal() -> None:
    data = RNG.normal(size=(300, 50))
    assert measures.distance_correlation(data, 3 * data + 1) == pytest.approx(1)
    assert measures.distance_correlation(data, RNG.normal(size=(300, 80))) < 0.1
    assert math.isnan(measures.distance_correlation(data[:3], data[:3]))


def test_intervals_are_over_patients_not_over_their_images() -> None:
    values = np.repeat(RNG.normal(size=30), 20)
    patients = np.repeat(np.arange(30), 20)
    by_patient = measures.mean_figure(values, patients, seed=0)
    by_image = measures.mean_figure(values, np.arange(600), seed=0)
    assert by_patient.value == pytest.approx(values.mean())
    width = by_patient.high - by_patient.low
    assert width == pytest.approx(3.92 * values.std() / 30**0.5, rel=0.15)
    assert width > 3 * (by_image.high - by_image.low)
