"""How `partition` divides the samples: what was asked for, and in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sltool.errors import UsageError
from sltool.names import check_site_name
from sltool.site.split import Skew, numbered_names, parse_ratios, site_names

DEFAULT_RATIOS = "7:2:1"
# Each site has a key, a folder and shards of its own.
MOST_SITES = 10_000
# Option -> the options that may stand beside it.
BESIDE: dict[str, frozenset[str]] = {
    "site": frozenset(),
    "by": frozenset(),
    "ratios": frozenset({"skew"}),
    "sites": frozenset({"skew", "quantity_skew"}),
    "skew": frozenset({"ratios", "sites", "quantity_skew"}),
    "quantity_skew": frozenset({"sites", "skew"}),
}


@dataclass(frozen=True)
class Division:
    """Which sites there are, and what they get; without any option, three sites 7:2:1.

    Attributes:
        ratios: the shares of simulated sites A, B, C ..., such as '7:2:1'.
        sites: the number of simulated sites, of equal shares unless `quantity_skew` says otherwise.
        by: a column of the source; one site for each of its values.
        skew: alpha of the Dirichlet distribution of the labels, see `split.Skew`.
        quantity_skew: alpha of that of the sites' sizes.
        site: the real site that all samples belong to.

    Raises:
        UsageError: an option is out of range, or two exclude each other.
    """

    ratios: str | None = None
    sites: int | None = None
    by: str | None = None
    skew: float | None = None
    quantity_skew: float | None = None
    site: str | None = None

    def __post_init__(self) -> None:
        given = [name for name, value in asdict(self).items() if value is not None]
        for name in given:
            excluded = [other for other in given if other not in {name, *BESIDE[name]}]
            if excluded:
                raise UsageError(
                    f"{_option(name)} and {_option(excluded[0])} exclude each other",
                    expected="--ratios or --sites, with or without --skew; --sites with "
                    "--quantity-skew; or --by, or --site, alone",
                )
        if self.quantity_skew is not None and self.sites is None:
            raise UsageError(
                "--quantity-skew needs the number of sites",
                hint="add --sites N, such as --sites 10",
            )
        for name in ("skew", "quantity_skew"):
            _check_alpha(name, getattr(self, name))
        if self.sites is not None and not 1 <= self.sites <= MOST_SITES:
            raise UsageError(f"--sites {self.sites} is no number of sites", expected=RANGE)
        if self.site is not None:
            check_site_name(self.site)
        elif self.by is None and self.sites is None:
            parse_ratios(self.ratios or DEFAULT_RATIOS)

    @property
    def simulated(self) -> bool:
        """Whether the sites are simulated, so that a seed makes them repeatable."""
        return self.site is None

    @property
    def shares(self) -> list[float]:
        """The sites' shares; not used with `by` and `quantity_skew`."""
        if self.site is not None:
            return [1.0]
        if self.sites is not None:
            return [1.0] * self.sites
        return parse_ratios(self.ratios or DEFAULT_RATIOS)

    @property
    def names(self) -> list[str]:
        """The sites' names; those of `by` follow from the source."""
        if self.site is not None:
            return [self.site]
        return numbered_names(self.sites) if self.sites else site_names(len(self.shares))

    @property
    def skews(self) -> Skew:
        return Skew(self.skew, self.quantity_skew)

    def document(self) -> dict[str, Any]:
        """The given options, for records and digests."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def describe(self) -> str:
        """'10 simulated sites of equal shares, labels skewed with alpha 0.1'."""
        if self.site is not None:
            return f"the real site {self.site}"
        if self.by is not None:
            return f"a site for each value of the column '{self.by}'"
        if self.sites is None:
            text = f"simulated sites of shares {self.ratios or DEFAULT_RATIOS}"
        else:
            text = f"{self.sites} simulated site{'s' if self.sites > 1 else ''}"
            sizes = f"skewed with alpha {self.quantity_skew:g}" if self.quantity_skew else "equal"
            text += f", sizes {sizes}" if self.sites > 1 else ""
        return text if self.skew is None else f"{text}, labels skewed with alpha {self.skew:g}"


RANGE = f"a number from 1 to {MOST_SITES}"


def _check_alpha(name: str, value: float | None) -> None:
    if value is not None and not (math.isfinite(value) and value > 0):
        raise UsageError(
            f"{_option(name)} {value:g} is no alpha of a Dirichlet distribution",
            expected="a positive number: 0.1 for sites that differ strongly, 100 for hardly any "
            "difference",
            hint=f"leave {_option(name)} out for sites that do not differ",
        )


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def ratios_text(ratios: Sequence[float] | str | None) -> str | None:
    """(7, 2, 1) -> '7:2:1'."""
    if ratios is None or isinstance(ratios, str):
        return ratios
    return ":".join(map(str, ratios))
