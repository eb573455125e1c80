"""`audit.html`: the result of an audit, for people; rendered by `templates/audit.html`."""

from __future__ import annotations

from typing import Any

from sltool.page import Cell, DataTable, TableRow, render
from sltool.site.audit.document import headline, sentence, warnings
from sltool.site.audit.measures import Figure
from sltool.site.audit.pictures import cases
from sltool.site.audit.run import GAIN, AttackResult, AuditResult

# Okabe & Ito's colours, as in the project's other charts.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7f7f7f")
DASHES = ("none", "6 3", "2 3")
NAMES = {
    "leak": "leak L",
    "ssim": "SSIM",
    "psnr": "PSNR [dB]",
    "exact_recovery": "recovered exactly",
    "linkage_top1": "linked at the first try",
}


def page(result: AuditResult) -> str:
    """The text of the page, including its pictures."""
    content = {
        "title": f"What an attacker gets from the shards of site {result.site}",
        "sentence": sentence(result),
        "warnings": warnings(result),
        "guarantee": result.guarantee.sentences() if result.guarantee else [],
        "headline": _headline(result),
        "attacked": len(result.attacks[0].rebuilt),
        "cases": cases(result),
        "attackers": _attackers(result),
        "columns": _columns(result),
        "inferences": _inferences(result),
        "curves": [_curve(index, attack) for index, attack in enumerate(result.attacks)],
        "gain": GAIN,
        "setup": _setup(result),
    }
    return render("sltool.site.audit", "audit.html", content)


def _headline(result: AuditResult) -> DataTable:
    rows = [
        TableRow([Cell(NAMES[name]), _cell(figure)]) for name, figure in headline(result).items()
    ]
    correlation = f"{result.distance_correlation:.3f}"
    rows.append(TableRow([Cell("distance correlation"), Cell(correlation)]))
    return DataTable(["figure", "value"], rows)


def _attackers(result: AuditResult) -> DataTable:
    names = list(result.attacks[0].figures)
    columns = ["attacker", *(NAMES[name] for name in names), "converged", "time [s]"]
    rows = [
        TableRow(
            [
                Cell(attack.name, attack.summary),
                *(_cell(attack.figures[name]) for name in names),
                Cell("yes" if attack.converged else "no"),
                Cell(f"{attack.seconds:.1f}", sort=attack.seconds),
            ],
            reference=index == 0,
        )
        for index, attack in enumerate(result.attacks)
    ]
    rows += [
        TableRow(
            [Cell(f"baseline: {name}"), *(_cell(figures[key]) for key in names), Cell(""), Cell("")]
        )
        for name, figures in result.baselines.items()
    ]
    return DataTable(columns, rows)


def _columns(result: AuditResult) -> DataTable | None:
    r2 = result.attacks[0].r2
    if not r2:
        return None
    rows = [
        TableRow([Cell(name), Cell("-") if value is None else Cell(f"{value:.4f}", sort=value)])
        for name, value in r2.items()
    ]
    return DataTable(["column", "R2"], rows)


def _inferences(result: AuditResult) -> DataTable | None:
    if not result.inferences:
        return None
    rows = [
        TableRow(
            [
                Cell(inference.name, inference.description),
                _cell(inference.figure),
                Cell(f"{inference.chance:.3f}"),
            ]
        )
        for inference in result.inferences
    ]
    return DataTable(["what", "attacker", "a guess"], rows)


def _cell(figure: Figure) -> Cell:
    note = f"{figure.low:.3f} to {figure.high:.3f}" if figure.high > figure.low else ""
    return Cell(f"{figure.value:.3f}", note, figure.value)


def _curve(index: int, attack: AttackResult) -> dict[str, str]:
    """A line of the chart: 80 pixels for each doubling, 170 for L from 0 to 1."""
    first = 4 - len(attack.curve)
    points = [
        f"{50 + 80 * (first + step)},{190 - 170 * min(max(leak, -0.1), 1.0):.1f}"
        for step, (_, leak) in enumerate(attack.curve)
    ]
    return {
        "name": attack.name,
        "points": " ".join(points),
        "colour": COLOURS[index % len(COLOURS)],
        "dashes": DASHES[index // len(COLOURS) % len(DASHES)],
    }


def _setup(result: AuditResult) -> list[tuple[str, Any]]:
    subject, scene = result.subject, result.scene
    return [
        ("budget", scene.budget.name),
        ("samples in the shards", result.evidence.shipped),
        ("known to the attackers", len(scene.fit) + len(scene.check)),
        ("attacked", len(result.truth)),
        ("patients", result.evidence.grouping.description),
        ("encoding digest", subject["encoding"]),
        ("SHA-256 of the privacy layer", subject["privacy_layer"]),
        ("SHA-256 of private.h5", subject["private"]),
        ("clipped to the norm", subject["noise"]["clip"] or "no"),
        ("standard deviation of the noise", subject["noise"]["sd"]),
        ("shards", ", ".join(subject["payloads"])),
        *((f"left out: {name}", why) for name, why in result.left_out.items()),
        ("time", f"{result.seconds:.0f} s"),
    ]
