"""Sweeps: `cut=0..4 noise=0,0.5` -> a grid of cells, each with settings of its own."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from sltool.errors import UnknownNameError, UsageError
from sltool.experiments.privacy_layers import Layer
from sltool.site.division import Division

# Short names of frequently swept keys.
KEYS = {"cut": "model.cut", "noise": "encoding.noise", "epochs": "training.epochs"}
EXPECTED = (
    "sites=3,10,30,100, skew=0.1,1,iid, ratios=7:2:1,1:1:1, cut=0..4, noise=0,0.5, or a study.yaml "
    "key such as training.batch_size=32,64"
)
SKEWS = ("skew", "quantity-skew")
# The keys that say how the samples are divided between the sites.
SITE_KEYS = ("sites", "ratios", *SKEWS)
# The value of a skew for sites that do not differ.
IID = "iid"
# The key that is swept over the case's privacy layers.
LAYER = "layer"
# File systems limit a name to 255 bytes.
MAX_NAME_BYTES = 200
RANGE = re.compile(r"(\d+)\.\.(\d+)")


@dataclass(frozen=True)
class Cell:
    """One point of the grid: 'cut' -> '2' and so on; {} outside a sweep."""

    point: dict[str, str]

    @property
    def name(self) -> str:
        """The cell's folder, 'cut=2,noise=0.5'; 'base' outside a sweep."""
        text = ",".join(f"{key}={value}" for key, value in self.point.items())
        return re.sub(r"[^A-Za-z0-9_=.,-]", "-", text) or "base"

    def settings(self, layers: Mapping[str, Layer]) -> tuple[str, ...]:
        """The point as `prepare --set` takes it, without the keys of the sites."""
        keys = layers[self.point[LAYER]].settings() if LAYER in self.point else ()
        others = (
            f"{KEYS.get(key, key)}={value}"
            for key, value in self.point.items()
            if key not in (*SITE_KEYS, LAYER)
        )
        return (*keys, *others)

    def division(self, ratios: str) -> Division:
        """How the samples are divided; by `ratios` unless the sites or ratios are swept."""
        sites = self.point.get("sites")
        skew, quantity_skew = (_alpha(self.point.get(key, IID)) for key in SKEWS)
        return Division(
            ratios=None if sites else self.point.get("ratios", ratios),
            sites=int(sites) if sites else None,
            skew=skew,
            quantity_skew=quantity_skew,
        )


def baseline(key: str, values: Sequence[str]) -> str:
    """The value of a swept key that the others are compared with: sites alike, else the first."""
    return IID if key in SKEWS and IID in values else values[0]


def _alpha(value: str) -> float | None:
    return None if value == IID else float(value)


def grid(sweeps: Sequence[str], layers: Mapping[str, Layer]) -> list[Cell]:
    """All cells of the sweeps; the last sweep varies fastest.

    Args:
        layers: the values that `layer` may have.

    Raises:
        UsageError: a sweep does not parse, a key is swept twice, or two cells have the same folder.
        UnknownNameError: there is no such layer.
    """
    axes = [_axis(sweep) for sweep in sweeps]
    for name in dict(axes).get(LAYER, ()):
        if name not in layers:
            raise UnknownNameError.of(
                "layer", name, layers, hint="only `reproduce privacy` has layers"
            )
    keys = [key for key, _ in axes]
    if len(set(keys)) < len(keys) or {"sites", "ratios"} <= set(keys):
        raise UsageError(
            "a setting is swept twice", where=f"--sweep {' '.join(sweeps)}", expected=EXPECTED
        )
    cells = [
        Cell(dict(zip(keys, point, strict=True))) for point in product(*(axis for _, axis in axes))
    ]
    if "quantity-skew" in keys and "sites" not in keys:
        raise UsageError(
            "the sizes of sites cannot be swept without their number",
            where=f"--sweep {' '.join(sweeps)}",
            hint="add it: --sweep sites=10 quantity-skew=0.5,iid",
        )
    names = Counter(cell.name for cell in cells)
    for name, count in names.items():
        if count > 1 or len(name.encode()) > MAX_NAME_BYTES:
            raise UsageError(
                "two cells would have the same folder"
                if count > 1
                else "a cell's folder name is too long",
                where=f"--sweep {' '.join(sweeps)}",
                expected=f"values that differ in letters, digits, '.', '-' and '_', and folder "
                f"names of at most {MAX_NAME_BYTES} bytes",
                hint=f"the folder would be '{name[:80]}'",
            )
    return cells


def _axis(sweep: str) -> tuple[str, list[str]]:
    key, equals, text = sweep.partition("=")
    values = [value.strip() for value in text.split(",")]
    found = RANGE.fullmatch(text)
    if found:
        values = [str(value) for value in range(int(found[1]), int(found[2]) + 1)]
    known = key in KEYS or key in (*SITE_KEYS, LAYER) or "." in key
    if not (equals and known and values and all(_fits(key, value) for value in values)):
        raise UsageError(f"'--sweep {sweep}' does not parse", expected=EXPECTED)
    return key, values


def _fits(key: str, value: str) -> bool:
    if key == "sites":
        return value.isdecimal() and int(value) > 0
    if key in SKEWS and value != IID:
        try:
            return float(value) > 0
        except ValueError:
            return False
    return bool(value)
