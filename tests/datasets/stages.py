"""The five stages and `ship` on a source, quickly."""

from __future__ import annotations

from typing import Any

from tests.conftest import Sltool

QUICK = ("--seed", 0, "--set", "training.epochs=2", "training.batch_size=64", "encoding.views=1")


def run_to_figures(sltool: Sltool, *prepare: object, ratios: str = "7:2:1") -> dict[str, Any]:
    """Prepare with these options, run every later stage, and return the result of `evaluate`."""
    sltool("prepare", *prepare, *QUICK).ok()
    sltool("partition", "--ratios", ratios).ok()
    sltool("client-encode").ok()
    sltool("ship").ok()
    sltool("server-train").ok()
    figures: dict[str, Any] = sltool("evaluate", "--json").ok().json
    return figures
