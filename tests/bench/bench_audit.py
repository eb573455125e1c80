"""`audit`: how long `quick` takes, and how near its leak comes to that of `thorough`.

Sao Paulo's 2,481 slices of 64x64, all of one site; the audit takes 2,000 of them. `thorough` takes
hours on two cores.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sltool.api import Site, Study
from sltool.progress import Silent
from tests.bench import Row
from tests.conftest import DATA

SOURCE = DATA / "covid-ct-sao-paulo"
# The recipe's keys that are changed, and how long the layer is fitted.
LAYERS: dict[str, tuple[str, dict[str, Any], int]] = {
    "drawn, 16 channels": ("best", {"encoding.views": 1}, 0),
    "drawn, 1 channel": ("paper", {}, 0),
    "fitted, the recipe `private`": ("private", {}, 10),
}
MOST_SECONDS = 90.0
MOST_APART = 0.2


def rows() -> Iterator[Row]:
    if not SOURCE.is_dir():
        return
    with tempfile.TemporaryDirectory() as work:
        quick: dict[str, tuple[Site, float]] = {}
        for index, (name, form) in enumerate(LAYERS.items()):
            site = _encoded(Path(work) / str(index), *form)
            before = os.times()
            found = site.audit("quick")
            after = os.times()
            quick[name] = site, found["leak"]["value"]
            used = after.user + after.system - before.user - before.system
            took = found["seconds"]
            yield Row(
                f"`audit`, quick, {name}: 2,000 images of 64x64",
                f"{took:.0f} s, {used:.0f} s of processor time",
                f"< {MOST_SECONDS:.0f} s",
                took < MOST_SECONDS,
            )
        for name, (site, leak) in quick.items():
            found = site.audit("thorough")
            most = found["leak"]["value"]
            yield Row(
                f"leak L by quick and by thorough, {name}",
                f"{leak:.3f}, {most:.3f} ({found['seconds']:.0f} s)",
                f"within {MOST_APART:.0%}",
                abs(leak - most) <= MOST_APART * abs(most),
            )


def _encoded(folder: Path, recipe: str, settings: dict[str, Any], epochs: int) -> Site:
    """A site of all samples, with shards in its outbox."""
    study = Study.create(
        folder,
        "covid-ct",
        source=SOURCE,
        recipe=recipe,
        settings=settings,
        seed=0,
        progress=Silent(),
    )
    study.prepare(SOURCE)
    study.partition([1], seed=0)
    if epochs:
        study.fit_privacy_layer(site="A", epochs=epochs, seed=0)
    site = Study.open(folder, progress=Silent()).site("A")
    site.encode()
    return site
