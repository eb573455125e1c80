"""How many samples each site contributes to an epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sltool.errors import UsageError

PROPORTIONAL, EQUAL = "proportional", "equal"


@dataclass(frozen=True)
class SiteControl:
    """How many samples each site contributes to an epoch.

    With n(s) samples at site s, N at all sites, and weights w(s), a site contributes

        proportional     n(s)
        equal, weights   N * w(s) / sum of w, whole numbers that sum to N (largest remainders)

    and at most `cap`. `equal` means a weight of 1 for every site, which is also the weight of a
    site that is not in `weights`.
    """

    kind: str = PROPORTIONAL
    weights: Mapping[str, float] = field(default_factory=dict)
    cap: int | None = None

    @classmethod
    def parse(cls, text: str, cap: int | None) -> SiteControl:
        """Parse 'proportional', 'equal' or 'A=3,B=1'.

        Raises:
            UsageError: the text is none of these.
        """
        if text in (PROPORTIONAL, EQUAL):
            return cls(text, {}, cap)
        try:
            pairs = [part.split("=") for part in text.split(",")]
            weights = {site.strip(): float(weight) for site, weight in pairs}
        except ValueError:
            weights = {}
        valid = all(math.isfinite(weight) and weight > 0 for weight in weights.values())
        if not weights or len(weights) < len(pairs) or not valid:
            raise UsageError(
                f"--site-weights cannot be '{text}'",
                expected="proportional, equal, or weights above 0, each site once: A=3,B=1",
            )
        return cls("weights", weights, cap)

    def counts(self, available: Mapping[str, int]) -> dict[str, int]:
        """Samples per epoch of each site, given the count it has."""
        wanted = dict(available)
        if self.kind != PROPORTIONAL:
            weights = {site: self.weights.get(site, 1.0) for site in available}
            wanted = _apportion(sum(available.values()), weights)
        return {site: min(count, self.cap or count) for site, count in wanted.items()}

    def document(self) -> dict[str, Any]:
        """`site_control` for `run.json`."""
        weights = ",".join(f"{site}={weight:g}" for site, weight in sorted(self.weights.items()))
        return {"weights": weights or self.kind, "cap": self.cap}


def _apportion(total: int, weights: Mapping[str, float]) -> dict[str, int]:
    """`total` apportioned by weight, in whole samples, by the largest-remainder method."""
    exact = {site: total * weight / sum(weights.values()) for site, weight in weights.items()}
    counts = {site: math.floor(share) for site, share in exact.items()}
    order = sorted(exact, key=lambda site: (counts[site] - exact[site], site))
    for site in order[: total - sum(counts.values())]:
        counts[site] += 1
    return counts
