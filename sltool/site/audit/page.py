"""`audit.html`: what an audit found, for people. How it looks is `templates/audit.html`."""

from __future__ import annotations

from typing import Any

from sltool.page import Cell, DataTable, TableRow, render
from sltool.site.audit.document import headline, sentence, warnings
from sltool.site.audit.measures import Figure
from sltool.site.audit.pictures import cases
from sltool.site.audit.run import GAIN, Found, Rebuilt

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


def page(found: Found) -> str:
    """The text of the page, pictures inside."""
    content = {
        "title": f"What an attacker gets from the shards of site {found.site}",
        "sentence": sentence(found),
        "warnings": warnings(found),
        "headline": _headline(found),
        "attacked": len(found.truth),
        "cases": cases(found),
        "attackers": _attackers(found),
        "columns": _columns(found),
        "inferences": _inferences(found),
        "curves": [_curve(number, one) for number, one in enumerate(found.attacks)],
        "gain": GAIN,
        "setup": _setup(found),
    }
    return render("sltool.site.audit", "audit.html", content)


def _headline(found: Found) -> DataTable:
    rows = [TableRow([Cell(NAMES[name]), _cell(one)]) for name, one in headline(found).items()]
    rows.append(TableRow([Cell("distance correlation"), Cell(f"{found.distance_correlation:.3f}")]))
    return DataTable(["figure", "value"], rows)


def _attackers(found: Found) -> DataTable:
    names = list(found.attacks[0].figures)
    columns = ["attacker", *(NAMES[name] for name in names), "converged", "time [s]"]
    rows = [
        TableRow(
            [
                Cell(one.name, one.summary),
                *(_cell(one.figures[name]) for name in names),
                Cell("yes" if one.converged else "no"),
                Cell(f"{one.seconds:.1f}", sort=one.seconds),
            ],
            reference=number == 0,
        )
        for number, one in enumerate(found.attacks)
    ]
    rows += [
        TableRow(
            [Cell(f"baseline: {name}"), *(_cell(figures[key]) for key in names), Cell(""), Cell("")]
        )
        for name, figures in found.baselines.items()
    ]
    return DataTable(columns, rows)


def _columns(found: Found) -> DataTable | None:
    r2 = found.attacks[0].r2
    if not r2:
        return None
    rows = [
        TableRow([Cell(name), Cell("-") if value is None else Cell(f"{value:.4f}", sort=value)])
        for name, value in r2.items()
    ]
    return DataTable(["column", "R2"], rows)


def _inferences(found: Found) -> DataTable | None:
    if not found.inferences:
        return None
    rows = [
        TableRow([Cell(one.name, one.told), _cell(one.figure), Cell(f"{one.chance:.3f}")])
        for one in found.inferences
    ]
    return DataTable(["what", "attacker", "a guess"], rows)


def _cell(figure: Figure) -> Cell:
    note = f"{figure.low:.3f} to {figure.high:.3f}" if figure.high > figure.low else ""
    return Cell(f"{figure.value:.3f}", note, figure.value)


def _curve(number: int, one: Rebuilt) -> dict[str, str]:
    """A line of the chart: 80 pixels for each doubling, 170 for L from 0 to 1."""
    first = 4 - len(one.curve)
    points = [
        f"{50 + 80 * (first + step)},{190 - 170 * min(max(leak, -0.1), 1.0):.1f}"
        for step, (_, leak) in enumerate(one.curve)
    ]
    return {
        "name": one.name,
        "points": " ".join(points),
        "colour": COLOURS[number % len(COLOURS)],
        "dashes": DASHES[number // len(COLOURS) % len(DASHES)],
    }


def _setup(found: Found) -> list[tuple[str, Any]]:
    bound, scene = found.bound, found.scene
    return [
        ("budget", scene.budget.name),
        ("samples in the shards", found.evidence.whole),
        ("known to the attackers", len(scene.fit) + len(scene.check)),
        ("attacked", len(found.truth)),
        ("patients", found.evidence.grouping.told),
        ("encoding digest", bound["encoding"]),
        ("SHA-256 of the privacy layer", bound["privacy_layer"]),
        ("SHA-256 of private.h5", bound["private"]),
        ("clipped to the norm", bound["noise"]["clip"] or "no"),
        ("standard deviation of the noise", bound["noise"]["sd"]),
        ("shards", ", ".join(bound["payloads"])),
        *((f"left out: {name}", why) for name, why in found.left_out.items()),
        ("time", f"{found.seconds:.0f} s"),
    ]
