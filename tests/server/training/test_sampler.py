"""Each site's share of an epoch: exact, reproducible, and every sample is drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sltool.errors import UsageError
from sltool.server.store import Shape, StoredSamples
from sltool.server.training.sampler import Sampler
from sltool.server.training.site_control import SiteControl
from tests.server.conftest import Server


def samples_of(sizes: Mapping[str, int], views: int = 1) -> StoredSamples:
    """Synthetic samples: the label is the sample's index."""
    total = sum(sizes.values())
    return StoredSamples(
        features=torch.zeros(total * views, 1),
        rows=torch.arange(total) * views,
        views=views,
        labels=torch.arange(total),
        site=np.repeat(np.arange(len(sizes)), list(sizes.values())),
        sites=list(sizes),
        pseudonyms=np.zeros(total, "S32"),
        groups=np.zeros(total, "S65"),
        shape=Shape((1,), "float32", regression=False),
    )


def test_counts_follow_the_formula() -> None:
    there = {"A": 700, "B": 200, "C": 100}
    assert SiteControl().counts(there) == there
    assert SiteControl("equal").counts(there) == {"A": 334, "B": 333, "C": 333}
    assert SiteControl.parse("A=3,B=1", None).counts(there) == {"A": 600, "B": 200, "C": 200}
    assert SiteControl.parse("proportional", 150).counts(there) == {"A": 150, "B": 150, "C": 100}
    assert SiteControl.parse("equal", 50).counts(there) == {"A": 50, "B": 50, "C": 50}


@given(
    st.dictionaries(st.sampled_from("ABCDEFG"), st.integers(1, 10_000), min_size=1),
    st.dictionaries(st.sampled_from("ABCDEFG"), st.floats(0.01, 100)),
)
def test_weighted_counts_sum_to_all_samples(
    there: dict[str, int], weights: dict[str, float]
) -> None:
    counts = SiteControl("weights", weights).counts(there)
    assert sum(counts.values()) == sum(there.values())
    total = sum(weights.get(site, 1) for site in there)
    for site in there:
        exact = sum(there.values()) * weights.get(site, 1) / total
        assert abs(counts[site] - exact) < 1


@settings(deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 100), st.integers(0, 5), st.sampled_from(["A=3", "equal"])
)
def test_no_sample_is_ever_two_turns_behind(n: int, cap: int, seed: int, weights: str) -> None:
    samples = samples_of({"A": n, "B": 30})
    sampler = Sampler(samples, SiteControl.parse(weights, cap), seed)
    turns: Counter[int] = Counter(dict.fromkeys(range(n + 30), 0))
    for epoch in range(7):
        order, rows = sampler.draw(epoch)
        sampler.finish()
        assert torch.equal(rows, order)
        turns.update(order.tolist())
        drawn = Counter(samples.site[order.numpy()].tolist())
        assert {"A": drawn[0], "B": drawn[1]} == sampler.counts
        for part in (range(n), range(n, n + 30)):
            of_site = [turns[sample] for sample in part]
            assert max(of_site) - min(of_site) <= 1


def test_the_order_is_a_function_of_seed_epoch_and_turns() -> None:
    control = SiteControl.parse("equal", 7)
    samples = samples_of({"A": 20, "B": 9})
    first, same, other = (Sampler(samples, control, seed) for seed in (1, 1, 2))
    for epoch in range(3):
        orders = [sampler.draw(epoch)[0] for sampler in (first, same, other)]
        assert torch.equal(orders[0], orders[1])
        assert not torch.equal(orders[0], orders[2])
        for sampler in (first, same, other):
            sampler.finish()
    resumed = Sampler(samples, control, 1, first.taken)
    assert torch.equal(resumed.draw(3)[0], first.draw(3)[0])


def test_every_view_of_a_sample_is_drawn() -> None:
    samples = samples_of({"A": 5}, views=3)
    sampler = Sampler(samples, SiteControl(), 0)
    seen = set()
    for epoch in range(30):
        order, rows = sampler.draw(epoch)
        assert torch.equal(rows // 3, order)
        seen.update(rows.tolist())
    assert seen == set(range(15))


@pytest.mark.parametrize("text", ["", "even", "A=", "A=0", "A=-1", "A=nan", "A=1,A=2", "A=1;B=2"])
def test_wrong_weights_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--site-weights"):
        SiteControl.parse(text, None)


def test_the_history_and_the_log_show_each_sites_share(shipped: Server) -> None:
    server = shipped
    server.sltool(
        "server-train", "--site-weights", "A=1,B=2,C=1", "--max-samples-per-site", 80
    ).ok()
    assert {row["sites"] for row in server.history()} == {"A=80 B=80 C=80"}
    assert {row["samples"] for row in server.history()} == {"240"}
    assert "80 samples of C (33.3%)" in server.log()
    ran = server.sltool("server-train", "--run", "x", "--site-weights", "D=1")
    assert ran.code == 2
    assert "unknown site 'D'" in ran.err
