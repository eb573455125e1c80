"""Epsilon: known answers of the library's accountants and of the published equation."""

from __future__ import annotations

import math
import re

import pytest
from scipy.stats import norm

from sltool.accounting import Release, epsilon, noise_for
from sltool.errors import UsageError
from tests.conftest import ROOT, Sltool


def delta_of(epsilon: float, sensitivity: float, noise: float) -> float:
    """Equation 6 of Balle & Wang, arXiv 1805.06530."""
    a, b = sensitivity / (2 * noise), epsilon * noise / sensitivity
    return float(norm.cdf(a - b) - math.exp(epsilon) * norm.cdf(-a - b))


@pytest.mark.parametrize("clip", [1.0, 3.5])
@pytest.mark.parametrize("noise", [2.0, 8.0, 40.0])
@pytest.mark.parametrize("maps", [1, 3, 60])
@pytest.mark.parametrize("delta", [1e-5, 1e-9])
def test_the_closed_form_gives_the_delta_back(
    clip: float, noise: float, maps: int, delta: float
) -> None:
    found = epsilon([Release(clip, noise, maps)], delta)
    assert delta_of(found, 2 * clip * math.sqrt(maps), noise) == pytest.approx(delta, rel=1e-6)


@pytest.mark.parametrize("maps", [1, 4, 50])
def test_the_privacy_loss_accountant_composes_to_the_same(maps: int) -> None:
    from dp_accounting import GaussianDpEvent, SelfComposedDpEvent
    from dp_accounting.pld import PLDAccountant

    clip, noise = 1.5, 12.0
    accountant = PLDAccountant()
    accountant.compose(SelfComposedDpEvent(GaussianDpEvent(noise / (2 * clip)), maps))
    expected = accountant.get_epsilon(1e-5)
    assert epsilon([Release(clip, noise, maps)]) == pytest.approx(expected, rel=2e-3)


def test_releases_with_different_noise_compose() -> None:
    from dp_accounting import ComposedDpEvent, GaussianDpEvent
    from dp_accounting.pld import PLDAccountant

    releases = [Release(1.0, 4.0, 2), Release(2.0, 10.0)]
    accountant = PLDAccountant()
    events = [GaussianDpEvent(2.0), GaussianDpEvent(2.0), GaussianDpEvent(2.5)]
    accountant.compose(ComposedDpEvent(events))
    assert epsilon(releases) == pytest.approx(accountant.get_epsilon(1e-5), rel=2e-3)


@pytest.mark.parametrize("target", [0.1, 1.0, 8.0, 64.0])
def test_the_noise_for_an_epsilon_has_that_epsilon(target: float) -> None:
    noise = noise_for(target, 1.3, maps=6, delta=1e-6)
    assert epsilon([Release(1.3, noise, 6)], 1e-6) == pytest.approx(target, rel=1e-6)


def test_what_bounds_nothing_has_no_epsilon() -> None:
    assert epsilon([Release(None, 5.0)]) == math.inf
    assert epsilon([Release(1.0, 4.0), Release(1.0, 0.0)]) == math.inf
    assert epsilon([]) == 0


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan])
def test_a_wrong_delta_is_refused(delta: float) -> None:
    with pytest.raises(UsageError, match="delta"):
        epsilon([Release(1.0, 4.0)], delta)


def test_the_command_states_epsilon_and_finds_the_noise(sltool: Sltool) -> None:
    there = sltool("privacy", "--clip", 1, "--noise", 4, "--records", 3, "--json").ok().json
    assert there["sensitivity"] == 2
    assert there["epsilon_record"] == pytest.approx(epsilon([Release(1, 4)]))
    assert there["epsilon_patient"] == pytest.approx(epsilon([Release(1, 4, 3)]))
    patient = there["epsilon_patient"]
    back = sltool("privacy", "--clip", 1, "--epsilon", patient, "--records", 3, "--json").ok()
    assert back.json["noise"] == pytest.approx(4, rel=1e-6)
    lines = sltool("privacy", "--clip", 1, "--noise", 4, "--records", 3).ok().out
    assert "encoding.clip=1 encoding.noise=4" in lines
    assert f"epsilon {patient:.4g} for a patient with 3 records" in lines


@pytest.mark.parametrize(
    "words",
    [
        ("--clip", 1),
        ("--clip", 1, "--noise", 4, "--epsilon", 1),
        ("--noise", 4),
        ("--clip", 0, "--noise", 4),
        ("--clip", 1, "--epsilon", 0),
        ("--clip", 1, "--noise", 4, "--delta", 2),
    ],
)
def test_mistakes_of_the_command(sltool: Sltool, words: tuple[object, ...]) -> None:
    assert sltool("privacy", *words).code == 2


def test_the_page_s_table_of_epochs_is_that_of_the_accountant() -> None:
    text = (ROOT / "docs" / "privacy.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", text, re.MULTILINE)
    assert [int(row[0]) for row in rows] == [1, 10, 50, 100, 200, 300]
    noise = noise_for(8, 1)
    for epochs, once, online, needed in rows:
        # Training on what was released is post-processing: the epochs are no releases.
        assert float(once) == pytest.approx(epsilon([Release(1, noise)]), abs=0.05)
        every_epoch = epsilon([Release(1, noise, int(epochs))])
        assert float(online) == pytest.approx(every_epoch, abs=0.05)
        assert float(needed) == pytest.approx(noise_for(8, 1, int(epochs)), abs=0.005)
