"""report.html: one self-contained file that opens from disk, on a phone, dark or light.

This module selects the content; `templates/report.html` has the layout.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sltool.experiments import pictures
from sltool.experiments.figures import metric_label, metric_name
from sltool.experiments.leak_figures import points
from sltool.experiments.results import REFERENCE, ArmResult, Results, undefined_draws
from sltool.experiments.rounding import interval, p_value, rounded, with_spread
from sltool.experiments.statistics import Difference, Interval
from sltool.experiments.style import NARROW, Picture
from sltool.experiments.sweep import baseline
from sltool.files import write_text
from sltool.page import Cell, DataTable, TableRow, render

# A figure of the audit -> the head of its column.
AUDITED = {
    "leak": "leak L",
    "linkage_top1": "linkage, top 1",
    "exact_recovery": "recovered exactly",
    "ssim": "SSIM",
}


def write_page(results: Results, drawn: Sequence[Picture], out: Path) -> Path:
    """Publish `out`/report.html with the pictures of `out`/figures embedded."""
    path = out / "report.html"
    text = render("sltool.experiments", path.name, _content(results, drawn, out))
    write_text(path, text, public=not _shows_patients(out / "figures"))
    return path


def _content(results: Results, drawn: Sequence[Picture], out: Path) -> dict[str, Any]:
    """The variables of the template."""
    notes = dict.fromkeys(
        f"{metric_name(value.metric)}: {value.note}." for value in results.published if value.note
    )
    skipped = [(f"left out: {arm}", why) for arm, why in results.skipped.items()]
    return {
        "title": results.title,
        "warnings": results.warnings,
        "figures": _figures(results),
        "sweep": _sweep(results),
        "axis": results.axis,
        "changes": _changes(results),
        "baseline": baseline(results.axis, results.axis_values) if results.axis else "",
        "layers": _layers(results),
        "undefined": "; ".join(undefined_draws(results.rows)),
        "seeds": len({run.seed for row in results.rows for run in row.finished}),
        "published": _published(results),
        "published_notes": " ".join(notes),
        "differences": _differences(results),
        "reference": REFERENCE,
        "pictures": _pictures(drawn, out / "figures"),
        "setup": [*results.setup.items(), *skipped],
        "every_seed": _every_seed(results),
    }


def _layers(results: Results) -> DataTable | None:
    """The audited layers: accuracy, and what an attacker gets."""
    found = points(results)
    if not found:
        return None
    metric = results.metrics[0]
    names = [name for name in AUDITED if any(point.values(name) for point in found)]
    columns = ["layer", metric_label(metric, results), *(AUDITED[name] for name in names)]
    rows = [
        TableRow(
            [
                Cell(point.name),
                _figure(point.row.figures[metric]),
                *(_seeds(point.values(name)) for name in names),
                Cell(point.attackers),
                Cell("yes" if point.on_front else "no"),
            ]
        )
        for point in found
    ]
    return DataTable([*columns, "strongest attacker", "on the front"], rows)


def _seeds(values: list[float]) -> Cell:
    if not values:
        return Cell("-")
    mean = sum(values) / len(values)
    note = f"{min(values):.2f} to {max(values):.2f}" if len(values) > 1 else ""
    return Cell(f"{mean + 0.0:.2f}", note, mean)


def _figures(results: Results) -> DataTable:
    columns = ["arm", *results.swept, *(metric_label(name, results) for name in results.metrics)]
    columns += ["training samples", "best epoch", "time [s]"]
    return DataTable(columns, [_figures_row(row, results) for row in results.rows])


def _figures_row(row: ArmResult, results: Results) -> TableRow:
    samples = [run.outcome.samples for run in row.finished]
    epochs = [str(run.outcome.best_epoch) for run in row.finished if run.outcome.epochs]
    cells = [
        *_names(row, results),
        *(_figure(row.figures[name]) for name in results.metrics),
        Cell(str(round(sum(samples) / len(samples))) if any(samples) else "none"),
        Cell(", ".join(epochs) or "-"),
        Cell(f"{row.seconds:.1f}"),
    ]
    return TableRow(cells, reference=row.arm == REFERENCE)


def _names(row: ArmResult, results: Results) -> list[Cell]:
    """The arm and its values of the swept keys."""
    return [Cell(row.arm), *(Cell(row.sweep.get(key, "")) for key in results.swept)]


def _figure(figure: Interval) -> Cell:
    half = (figure.high - figure.low) / 2
    return Cell(
        with_spread(figure.mean, figure.sd, half),
        interval(figure.low, figure.high),
        figure.mean,
    )


def _published(results: Results) -> DataTable | None:
    if not results.published:
        return None
    rows = []
    for figure in results.published:
        paper = [
            Cell(f"{figure.table}: {figure.setting}"),
            Cell(metric_label(figure.metric, results)),
            # All digits that the paper prints.
            Cell(f"{figure.value:g}", sort=figure.value),
        ]
        ours = [
            [Cell(row.label), _figure(row.figures[figure.metric])]
            for row in results.rows
            if figure.matches(row.arm, row.sweep) and figure.metric in row.figures
        ]
        rows += [TableRow([*paper, *cells]) for cells in ours or [[Cell(figure.arm), Cell("-")]]]
    return DataTable(["in the paper", "metric", "published value", "our arm", "our value"], rows)


def _differences(results: Results) -> DataTable | None:
    compared = [row for row in results.rows if row.differences]
    if not compared:
        return None
    columns = ["arm", *results.swept]
    for name in results.compared:
        columns += [
            f"{metric_label(name, results)}: minus {REFERENCE}",
            f"p of {metric_name(name)}",
        ]
    rows = []
    for row in compared:
        cells = [cell for name in results.compared for cell in _difference(row.differences[name])]
        rows.append(TableRow([*_names(row, results), *cells]))
    return DataTable(columns, rows)


def _sweep(results: Results) -> DataTable | None:
    """The headline metric: a row for each point of the sweep, a column for each arm."""
    if not results.axis:
        return None
    arms = list(dict.fromkeys(row.arm for row in results.rows))
    points: dict[tuple[str, ...], dict[str, ArmResult]] = {}
    for row in results.rows:
        points.setdefault(tuple(row.sweep.values()), {})[row.arm] = row
    name = results.metrics[0]
    rows = [
        TableRow(
            [
                *map(Cell, point),
                *(
                    _figure(by_arm[arm].figures[name]) if arm in by_arm else Cell("-")
                    for arm in arms
                ),
            ]
        )
        for point, by_arm in points.items()
    ]
    return DataTable([*results.swept, *(f"{arm}: {metric_name(name)}" for arm in arms)], rows)


def _changes(results: Results) -> DataTable | None:
    """Each arm's headline metric minus that of the same arm at the baseline of the sweep."""
    changed = [row for row in results.rows if row.changes]
    if not changed:
        return None
    name = results.metrics[0]
    rows = [TableRow([*_names(row, results), *_difference(row.changes[name])]) for row in changed]
    label = f"{metric_label(name, results)}: change"
    return DataTable(["arm", *results.swept, label, f"p of {metric_name(name)}"], rows)


def _difference(found: Difference) -> tuple[Cell, Cell]:
    half = (found.high - found.low) / 2
    note = interval(found.low, found.high, signed=True)
    return (
        Cell(rounded(found.mean, half, signed=True), note, found.mean),
        Cell(p_value(found.p), sort=found.p),
    )


def _pictures(drawn: Sequence[Picture], folder: Path) -> list[dict[str, str]]:
    """Title, alt text and caption of each picture, with its wide and narrow files in base64."""
    shown = list(drawn)
    if _shows_patients(folder):
        shown.append(Picture(pictures.NAME, pictures.TITLE, pictures.ALT, pictures.CAPTION))
    return [
        {
            **vars(picture),
            "wide": _base64(folder / f"{picture.name}.png"),
            "narrow": _base64(folder / f"{picture.name}{NARROW}.png"),
        }
        for picture in shown
    ]


def _base64(path: Path) -> str:
    """The file in base64, or '' if it does not exist."""
    return base64.b64encode(path.read_bytes()).decode("ascii") if path.is_file() else ""


def _shows_patients(figures: Path) -> bool:
    return (figures / f"{pictures.NAME}.png").is_file()


def _every_seed(results: Results) -> DataTable | None:
    if all(len(row.finished) == 1 for row in results.rows):
        return None
    name = results.metrics[0]
    rows = [
        TableRow(
            [Cell(row.label), Cell(str(run.seed)), Cell(rounded(value, figure.sd), sort=value)]
        )
        for row in results.rows
        for figure in [row.figures[name]]
        for run, value in zip(row.finished, figure.seeds, strict=True)
    ]
    return DataTable(["arm", "seed", metric_label(name, results)], rows)
