"""The differential privacy of feature maps that are released with clipping and Gaussian noise.

Each release of a record is its feature map f(x), clipped to the L2 norm C, plus noise of standard
deviation s in every value. Neighbours differ in the content of one record, which is replaced by any
other: f then moves by at most 2 C, the sensitivity. (Adding or removing a record is not protected:
a shard has a row for each.) n releases of a record, or of the records of one patient, are together
one Gaussian mechanism whose sensitivity is 2 C sqrt(n). Whatever is computed from the releases,
however often, is post-processing and costs nothing (Dwork & Roth, "The Algorithmic Foundations of
Differential Privacy", 2014).

Epsilon for a delta is computed by dp-accounting, exactly: Balle & Wang, "Improving the Gaussian
Mechanism for Differential Privacy", 2018 (arXiv 1805.06530).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from sltool.errors import UsageError

DELTA = 1e-5


@dataclass(frozen=True)
class Release:
    """Noisy feature maps that were released.

    Attributes:
        clip: the greatest L2 norm of a feature map before the noise; None: not limited.
        noise: the standard deviation of the noise in each value.
        maps: number of feature maps, each with noise of its own.
    """

    clip: float | None
    noise: float
    maps: int = 1

    @property
    def mu_squared(self) -> float:
        """(sensitivity / noise)^2, which adds up over releases; infinite if nothing is bounded."""
        if self.clip is None or self.noise <= 0:
            return math.inf
        return self.maps * (2 * self.clip / self.noise) ** 2


def epsilon(releases: Iterable[Release], delta: float = DELTA) -> float:
    """Epsilon of all these releases together; infinite if one of them bounds nothing.

    Raises:
        UsageError: delta is not between 0 and 1, or dp-accounting is not installed.
    """
    _check_delta(delta)
    total = sum(release.mu_squared for release in releases)
    if not 0 < total < math.inf:
        return total
    return float(_dp_accounting().get_epsilon_gaussian(1 / math.sqrt(total), delta))


def noise_for(target: float, clip: float, maps: int = 1, delta: float = DELTA) -> float:
    """The least standard deviation at which `maps` releases together have the epsilon `target`.

    Raises:
        UsageError: a value is not positive, or dp-accounting is not installed.
    """
    _check_delta(delta)
    if not (target > 0 and clip > 0 and maps > 0 and math.isfinite(target * clip)):
        raise UsageError("epsilon, clip and the number of releases have to be positive")
    multiplier = float(_dp_accounting().get_sigma_gaussian(target, delta))
    return 2 * clip * math.sqrt(maps) * multiplier


def is_available() -> bool:
    """Whether dp-accounting is installed."""
    return find_spec("dp_accounting") is not None


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise UsageError(f"delta {delta:g} is not between 0 and 1", expected="such as 1e-5")


def _dp_accounting() -> Any:
    try:
        import dp_accounting
    except ImportError as error:
        raise UsageError(
            "epsilon needs the package dp-accounting", hint="install sltool[dp]"
        ) from error
    return dp_accounting
