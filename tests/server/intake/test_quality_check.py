"""Shards of a single class: the false-alarm rate is as stated, and lost labels are detected."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from sltool.server.intake.quality_check import (
    FALSE_ALARM_RATE,
    ShardStatistics,
    class_counts,
    patient_counts,
    quality_problem,
    single_class_probability,
)
from sltool.server.store import Segment


def segment(labels: NDArray[np.int64], patients: NDArray[np.int64], site: str = "A") -> Segment:
    """A shard with these (N,) labels of these (N,) patients."""
    classes = int(max(labels.max() + 1, 2))
    groups = np.array([f"{patient:032x}".encode() for patient in patients], "S65")
    return Segment(
        "", None, site, "train", 0, 0, len(labels), 1, 1.0,
        class_counts(labels, classes), patient_counts(labels, groups, classes),
    )  # fmt: skip


def any_quarantined(
    labels: NDArray[np.int64], sizes: list[int], patients: NDArray[np.int64]
) -> bool:
    """Whether any of the shards, cut from these samples one after the other, is quarantined."""
    stored: list[Segment] = []
    for part in np.split(np.arange(len(labels)), np.cumsum(sizes)[:-1]):
        arriving = segment(labels[part], patients[part])
        if quality_problem(ShardStatistics(), arriving, stored):
            return True
        stored.append(arriving)
    return False


def rate(prevalence: float, sizes: list[int], per_patient: int, trials: int) -> float:
    """How often a study whose labels are drawn with this prevalence has a shard quarantined."""
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(trials):
        count = sum(sizes) // per_patient + 1
        labels = np.repeat((rng.random(count) < prevalence).astype(np.int64), per_patient)
        patients = np.repeat(np.arange(count), per_patient)
        alarms += any_quarantined(labels[: sum(sizes)], sizes, patients[: sum(sizes)])
    return alarms / trials


@pytest.mark.parametrize(
    ("prevalence", "sizes", "per_patient"),
    [
        (0.1, [100, 9], 1),
        (0.1, [9] * 20, 1),
        (0.1, [1000, *[9] * 30], 1),
        (0.5, [9] * 20, 1),
        (0.5, [20, 5, 5], 1),
        (0.02, [500, 100, 100], 1),
        # All slices of a patient share the label, and the patients are split as a whole.
        (0.5, [400, 40, 40], 20),
        (0.1, [1000, 100, 100], 10),
    ],
)
def test_correct_shards_are_quarantined_at_most_at_the_stated_rate(
    prevalence: float, sizes: list[int], per_patient: int
) -> None:
    trials = 500
    # Three standard errors above the stated rate.
    limit = FALSE_ALARM_RATE + 3 * (FALSE_ALARM_RATE * (1 - FALSE_ALARM_RATE) / trials) ** 0.5
    assert rate(prevalence, sizes, per_patient, trials) <= limit


@pytest.mark.parametrize(
    ("prevalence", "before", "size"), [(0.5, 100, 30), (0.3, 300, 60), (0.1, 1000, 150)]
)
@pytest.mark.parametrize("kind", [0, 1])
def test_a_shard_whose_labels_were_lost_is_quarantined(
    prevalence: float, before: int, size: int, kind: int
) -> None:
    labels = (np.arange(before) < prevalence * before).astype(np.int64)
    stored = [segment(labels[n::4], np.arange(before)[n::4]) for n in range(4)]
    lost = segment(np.full(size, kind), np.arange(before, before + size))
    assert f"all its {size} labels are of class {kind}" in quality_problem(
        ShardStatistics(), lost, stored
    )


def test_the_probability_is_that_of_drawing_without_replacement() -> None:
    # 3 of 10 are of class 1; all three of the shard are: 1 / C(10, 3). Class 0 is more frequent.
    assert single_class_probability([0, 3], [[7, 0]]) == pytest.approx(1 / 120)
    # 8 of 10 are of class 0; the shard's 3 are, and class 1, the rarer one, has only 2.
    assert single_class_probability([3, 0], [[5, 2]]) == pytest.approx(56 / 120)


def test_a_site_with_a_single_class_is_never_quarantined() -> None:
    every = np.zeros(500, np.int64)
    assert not any_quarantined(every, [100] * 5, np.arange(500))


def test_shards_of_other_sites_do_not_count() -> None:
    both = segment(np.arange(400) % 2, np.arange(400), site="B")
    alone = segment(np.zeros(300, np.int64), np.arange(300))
    assert not quality_problem(ShardStatistics(), alone, [both])
    assert quality_problem(
        ShardStatistics(), alone, [both, segment(np.arange(400) % 2, np.arange(400))]
    )
