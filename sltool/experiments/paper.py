"""The published results of the paper (Ha et al., 2022), for comparison with ours.

`setting` is the paper's name of a row; `arm` and `sweep` identify the matching row of ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Published:
    """One published value; accuracy is a share, not a percentage."""

    table: str
    setting: str
    metric: str
    value: float
    arm: str
    sweep: dict[str, str] = field(default_factory=dict)
    note: str = ""

    def matches(self, arm: str, sweep: dict[str, str]) -> bool:
        """Whether this is the published value for one of our rows."""
        return arm == self.arm and self.sweep.items() <= sweep.items()


_FITS_MALE = "the paper calls it RMSLE; it is not the root of its MSLE, but fits this mean"

CHOLESTEROL = (
    Published("Table 7", "single", "msle", 0.1428, "single:C"),
    Published("Table 7", "multi", "msle", 0.0216, "multi"),
    Published("Table 7", "single", "male", 0.3062, "single:C", note=_FITS_MALE),
    Published("Table 7", "multi", "male", 0.1002, "multi", note=_FITS_MALE),
    Published("Table 7", "single", "smape", 15.1403, "single:C"),
    Published("Table 7", "multi", "smape", 5.0609, "multi"),
)

COVID_CT = (
    Published("Table 5", "federated", "accuracy", 0.957, "federated"),
    Published("Table 5", "split", "accuracy", 0.985, "multi"),
)

# Body part -> accuracy in % of (the single site with 10 % of the data, multi).
MURA_PARTS = {
    "finger": (60.5, 68.9),
    "elbow": (56.3, 65.1),
    "forearm": (61.4, 73.7),
    "hand": (62.6, 70.8),
    "humerus": (67.3, 71.8),
    "shoulder": (62.8, 66.4),
    "wrist": (69.9, 73.1),
}

MURA = tuple(
    Published("Table 6", f"{part}, {arm}", "accuracy", round(value / 100, 3), arm)
    for part, accuracies in MURA_PARTS.items()
    for arm, value in zip(("single:C", "multi"), accuracies, strict=True)
)

CIFAR10 = tuple(
    Published("Table 1", layers, "accuracy", value, "multi", {"cut": cut})
    for cut, layers, value in (
        ("0", "nothing at the site", 0.7109),
        ("1", "L1 at the site", 0.6818),
        ("2", "L1-L2 at the site", 0.6792),
        ("3", "L1-L3 at the site", 0.6600),
        ("4", "L1-L4 at the site", 0.6566),
    )
)
