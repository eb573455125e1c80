"""`audit.json`: what an audit found, as the gate, the page and other programs read it."""

from __future__ import annotations

from typing import Any

from typing_extensions import TypedDict

from sltool.site.audit.evidence import Bound
from sltool.site.audit.measures import Figure
from sltool.site.audit.run import Found, Rebuilt
from sltool.version import __version__


class Bounds(TypedDict):
    """A figure with its 95 % interval over held-out patients."""

    value: float
    low: float
    high: float


class AuditRecord(TypedDict):
    """What is read of `audit.json`; the file says more.

    `attack` is the strongest attacker; `leak` is his. `linkage_top1` is the greater of the rates by
    another view and by another sample, `exact_recovery` the greatest of any attacker.
    """

    format: int
    site: str
    budget: str
    bound: Bound
    attack: str
    leak: Bounds
    linkage_top1: Bounds
    exact_recovery: Bounds


def document(found: Found) -> dict[str, Any]:
    """As JSON."""
    best = found.attacks[0]
    return {
        "format": 1,
        "tool": f"sltool {__version__}",
        "site": found.site,
        "budget": found.scene.budget.name,
        "bound": found.bound,
        "attack": best.name,
        "converged": best.converged,
        **{name: _bounds(figure) for name, figure in headline(found).items()},
        "distance_correlation": found.distance_correlation,
        "r2": best.r2,
        "sentence": sentence(found),
        "warnings": warnings(found),
        "patients": found.evidence.grouping.told,
        "samples": {
            "shipped": found.evidence.whole,
            "known": len(found.scene.fit) + len(found.scene.check),
            "attacked": len(found.truth),
        },
        "baselines": {
            name: {key: _bounds(one) for key, one in figures.items()}
            for name, figures in found.baselines.items()
        },
        "attackers": [_attacker(one) for one in found.attacks],
        "inferences": [
            {
                "name": one.name,
                **one.figure.document(),
                "chance": one.chance,
                "what": one.told,
            }
            for one in found.inferences
        ],
        "left_out": found.left_out,
        "seconds": round(found.seconds, 1),
    }


def headline(found: Found) -> dict[str, Figure]:
    """The figures that count: of the strongest attacker, but linkage and exact recovery of any."""
    best = found.attacks[0]
    linked = [one.figure for one in found.inferences if one.name.startswith("linkage")]
    names = ("leak", "ssim", "psnr")
    figures: dict[str, Figure] = {
        name: best.figures[name] for name in names if name in best.figures
    }
    exact = [one.figures["exact_recovery"] for one in found.attacks]
    figures["exact_recovery"] = max(exact, key=lambda one: one.value)
    if linked:
        figures["linkage_top1"] = max(linked, key=lambda one: one.value)
    return figures


def _attacker(one: Rebuilt) -> dict[str, Any]:
    return {
        "name": one.name,
        "what": one.summary,
        **{name: _bounds(figure) for name, figure in one.figures.items()},
        "r2": one.r2,
        "unit": one.unit,
        "curve": [{"effort": effort, "leak": leak} for effort, leak in one.curve],
        "converged": one.converged,
        "seconds": round(one.seconds, 1),
    }


def _bounds(figure: Figure) -> Bounds:
    return Bounds(value=figure.value, low=figure.low, high=figure.high)


def warnings(found: Found) -> list[str]:
    """What a reader must know before he relies on the figures."""
    told = []
    best = found.attacks[0]
    if not best.converged:
        told.append(
            f"The strongest attacker ({best.name}) had not converged: with more effort he would "
            "rebuild more. Audit with --budget thorough."
        )
    if not found.evidence.grouping.named:
        told.append(f"Who belongs together is a guess: {found.evidence.grouping.told}.")
    return told


def sentence(found: Found) -> str:
    """What a data-protection officer can quote."""
    best, figures = found.attacks[0], headline(found)
    who = (
        f"Whoever holds the shards of site {found.site}, which are pseudonymised personal data, "
        f"and knows the privacy layer and {best.knowledge}"
    )
    leak = figures["leak"]
    if found.scene.is_image:
        mean = found.baselines["mean"]["ssim"].value
        rebuilt = (
            f"rebuilds an image with a structural similarity of {figures['ssim'].value:.2f} to the "
            f"original, where the mean image has {mean:.2f}: a leak of {_interval(leak)} on the "
            "scale from the average patient (0) to the picture itself (1)"
        )
    else:
        rebuilt = (
            f"rebuilds {100 * leak.value:.0f} % of the variance of a patient's values, and "
            f"{100 * figures['exact_recovery'].value:.0f} % of the records exactly"
        )
    text = f"{who}, {rebuilt} (attacker: {best.name}, budget: {found.scene.budget.name})."
    if "linkage_top1" in figures:
        linked = 100 * figures["linkage_top1"].value
        text += (
            " By another view or sample of a patient he finds the patient's feature map in "
            f"{linked:.0f} % of cases."
        )
    return text


def _interval(figure: Figure) -> str:
    # Not -0.00.
    value, low, high = (round(one, 2) + 0.0 for one in (figure.value, figure.low, figure.high))
    return f"{value:.2f} (95 % interval {low:.2f} to {high:.2f})"
