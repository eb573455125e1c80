"""`audit.json`: the result of an audit, for the gate, the page and other programs."""

from __future__ import annotations

from typing import Any

from sltool.site.audit.measures import Figure
from sltool.site.audit.record import FigureRecord
from sltool.site.audit.run import AttackResult, AuditResult
from sltool.version import __version__


def document(result: AuditResult) -> dict[str, Any]:
    """The content of `audit.json`."""
    best = result.attacks[0]
    return {
        "format": 1,
        "tool": f"sltool {__version__}",
        "site": result.site,
        "budget": result.scene.budget.name,
        "bound": result.subject,
        "attack": best.name,
        "converged": best.converged,
        **{name: _figure_record(figure) for name, figure in headline(result).items()},
        "distance_correlation": result.distance_correlation,
        "r2": best.r2,
        "sentence": sentence(result),
        "warnings": warnings(result),
        "differential_privacy": result.guarantee.document() if result.guarantee else None,
        "patients": result.evidence.grouping.description,
        "samples": {
            "shipped": result.evidence.shipped,
            "known": len(result.scene.fit) + len(result.scene.check),
            "attacked": len(result.truth),
        },
        "baselines": {
            name: {key: _figure_record(figure) for key, figure in figures.items()}
            for name, figures in result.baselines.items()
        },
        "attackers": [_attack_record(attack) for attack in result.attacks],
        "inferences": [
            {
                "name": inference.name,
                **_figure_record(inference.figure),
                "chance": inference.chance,
                "what": inference.description,
            }
            for inference in result.inferences
        ],
        "left_out": result.left_out,
        "layer_fitted_on": result.fitted,
        "seconds": round(result.seconds, 1),
    }


def headline(result: AuditResult) -> dict[str, Figure]:
    """The main figures: of the strongest attacker, but linkage and exact recovery of any."""
    best = result.attacks[0]
    linkages = [
        inference.figure for inference in result.inferences if inference.name.startswith("linkage")
    ]
    names = ("leak", "ssim", "psnr")
    figures: dict[str, Figure] = {
        name: best.figures[name] for name in names if name in best.figures
    }
    recoveries = [attack.figures["exact_recovery"] for attack in result.attacks]
    figures["exact_recovery"] = max(recoveries, key=lambda figure: figure.value)
    if linkages:
        figures["linkage_top1"] = max(linkages, key=lambda figure: figure.value)
    return figures


def _attack_record(attack: AttackResult) -> dict[str, Any]:
    return {
        "name": attack.name,
        "what": attack.summary,
        "attacked": len(attack.rebuilt),
        **{name: _figure_record(figure) for name, figure in attack.figures.items()},
        "r2": attack.r2,
        "unit": attack.unit,
        "curve": [{"effort": effort, "leak": leak} for effort, leak in attack.curve],
        "converged": attack.converged,
        "seconds": round(attack.seconds, 1),
    }


def _figure_record(figure: Figure) -> FigureRecord:
    return FigureRecord(value=figure.value, low=figure.low, high=figure.high)


def warnings(result: AuditResult) -> list[str]:
    """What a reader must know before relying on the figures."""
    messages = []
    best = result.attacks[0]
    if not best.converged:
        messages.append(
            f"The strongest attacker ({best.name}) had not converged: with more effort it would "
            "reconstruct more. Audit with --budget thorough."
        )
    grouping = result.evidence.grouping
    if not grouping.named:
        messages.append(f"Which samples share a patient is a guess: {grouping.description}.")
    if result.fitted is not None and result.fitted["site"]:
        messages.append(
            f"The privacy layer was fitted on training samples of site {result.fitted['site']} and "
            "is known to all sites and the server: what it tells about these patients is not part "
            "of these figures."
        )
    return messages


def sentence(result: AuditResult) -> str:
    """A summary that a data-protection officer can quote."""
    best, figures = result.attacks[0], headline(result)
    who = (
        f"Whoever holds the shards of site {result.site}, which are pseudonymised personal data, "
        f"and knows the privacy layer and {best.knowledge}"
    )
    leak = figures["leak"]
    if result.scene.is_image:
        mean = result.baselines["mean"]["ssim"].value
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
    text = f"{who}, {rebuilt} (attacker: {best.name}, budget: {result.scene.budget.name})."
    if "linkage_top1" in figures:
        linkage = 100 * figures["linkage_top1"].value
        text += (
            " With another view or sample of a patient, the attacker finds that patient's feature "
            f"map in {linkage:.0f} % of cases."
        )
    return text


def _interval(figure: Figure) -> str:
    # Adding 0.0 turns -0.0 into 0.0.
    value, low, high = (round(x, 2) + 0.0 for x in (figure.value, figure.low, figure.high))
    return f"{value:.2f} (95 % interval {low:.2f} to {high:.2f})"
