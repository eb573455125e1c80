"""Sweeps: `cut=0..4 noise=0,0.5` -> a grid of cells, each with settings of its own."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from sltool.errors import UnknownNameError, UsageError
from sltool.experiments.privacy_layers import Layer

# Short names of frequently swept keys.
KEYS = {"cut": "model.cut", "noise": "encoding.noise", "epochs": "training.epochs"}
EXPECTED = (
    "sites=1,3,10, ratios=7:2:1,1:1:1, cut=0..4, noise=0,0.5, or a study.yaml key such as "
    "training.batch_size=32,64"
)
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
        """The point as `prepare --set` takes it, without the sites' shares."""
        keys = layers[self.point[LAYER]].settings() if LAYER in self.point else ()
        others = (
            f"{KEYS.get(key, key)}={value}"
            for key, value in self.point.items()
            if key not in ("sites", "ratios", LAYER)
        )
        return (*keys, *others)

    def ratios(self, default: str) -> str:
        """The shares of the sites; equal where the number of sites is swept."""
        if "sites" in self.point:
            return ":".join(["1"] * int(self.point["sites"]))
        return self.point.get("ratios", default)


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
    known = key in KEYS or key in ("sites", "ratios", LAYER) or "." in key
    is_count = key == "sites"
    fits = all(value.isdecimal() and int(value) > 0 if is_count else value for value in values)
    if not (equals and known and values and fits):
        raise UsageError(f"'--sweep {sweep}' does not parse", expected=EXPECTED)
    return key, values
