"""report.html: one self-contained file that opens from disk, on a phone, dark or light."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from sltool.experiments import pictures
from sltool.experiments.figures import metric_label
from sltool.experiments.results import REFERENCE, Results, Row, undefined_draws
from sltool.experiments.statistics import Difference, Interval
from sltool.experiments.style import Picture
from sltool.files import write_text

STYLE = """
:root { color-scheme: light dark; --ground: #fff; --ink: #1b1f24; --soft: #5b6470;
  --line: #d8dee4; --mark: #eef4fb; --warn: #fff4d6; }
@media (prefers-color-scheme: dark) { :root { --ground: #14181d; --ink: #e6eaef;
  --soft: #9aa5b1; --line: #343c46; --mark: #1d2a3a; --warn: #3a3115; } }
body { margin: 0 auto; max-width: 62rem; padding: 1rem; background: var(--ground);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: .5rem 0; } h2 { font-size: 1.15rem; margin-top: 2rem; }
p, figcaption { color: var(--soft); } .warning { background: var(--warn); color: var(--ink);
  padding: .6rem .8rem; border-radius: .4rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; overflow-wrap: normal; }
th:first-child, td:first-child { text-align: left; } td small { color: var(--soft); }
.setup td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.setup td:first-child { color: var(--soft); white-space: nowrap; vertical-align: top; }
th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible { outline: 2px solid currentColor; }
th button::after { content: " \\2195"; color: var(--soft); }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
tr.reference { background: var(--mark); } figure { margin: 1.2rem 0; }
img { width: 100%; height: auto; background: #fff; border-radius: .4rem; padding: .5rem;
  box-sizing: border-box; } img.narrow { max-width: 32rem; }
"""

SCRIPT = """
for (const table of document.querySelectorAll('table.sortable')) {
  table.querySelectorAll('th').forEach((head, column) => {
    head.querySelector('button').addEventListener('click', () => {
      const up = head.getAttribute('aria-sort') !== 'ascending';
      table.querySelectorAll('th').forEach(other => other.removeAttribute('aria-sort'));
      head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
      const value = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const body = table.tBodies[0];
      [...body.rows].sort((a, b) => {
        const x = value(a), y = value(b), gap = Number(x) - Number(y);
        return (Number.isNaN(gap) ? x.localeCompare(y) : gap) * (up ? 1 : -1);
      }).forEach(row => body.append(row));
    });
  });
}
"""


def write_page(results: Results, drawn: Sequence[Picture], out: Path) -> Path:
    """Publish `out`/report.html with the pictures of `out`/figures inside."""
    path = out / "report.html"
    body = [
        f"<h1>{escape(results.title)}</h1>",
        *(f'<p class="warning">{escape(text)}</p>' for text in results.warnings),
        _section("Figures", _results_table(results), _note(results), _undefined(results)),
        _paper(results),
        _differences(results),
        *_pictures(drawn, out / "figures"),
        _section("How it was run", _setup_table(results)),
        _seeds(results),
    ]
    write_text(path, _document(results.title, "\n".join(filter(None, body))))
    return path


def _document(title: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # A page that asks for nothing, not even an icon.
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _section(title: str, *parts: str) -> str:
    return f"<h2>{escape(title)}</h2>\n" + "\n".join(parts)


def table(head: Sequence[str], rows: Iterable[tuple[str, Sequence[tuple[str, str]]]]) -> str:
    """A sortable table.

    Args:
        rows: (class of the row, cells); a cell is (what it sorts by, its HTML).
    """
    heads = "".join(
        f'<th scope="col"><button type="button">{escape(name)}</button></th>' for name in head
    )
    lines = []
    for kind, cells in rows:
        shown = "".join(f'<td data-value="{escape(key)}">{html}</td>' for key, html in cells)
        lines.append(f'<tr class="{kind}">{shown}</tr>')
    return (
        f'<div class="wide"><table class="sortable"><thead><tr>{heads}</tr></thead>\n'
        f"<tbody>{chr(10).join(lines)}</tbody></table></div>"
    )


def _results_table(results: Results) -> str:
    head = ["arm", *results.swept, *(metric_label(name, results) for name in results.metrics)]
    head += ["training samples", "best epoch", "time [s]"]
    return table(head, [_result(row, results) for row in results.rows])


def _result(row: Row, results: Results) -> tuple[str, list[tuple[str, str]]]:
    cells = [_text(row.arm), *(_text(row.sweep.get(key, "")) for key in results.swept)]
    cells += [_figure(row.figures[name]) for name in results.metrics]
    samples = [one.outcome.samples for one in row.finished]
    epochs = [str(one.outcome.best_epoch) for one in row.finished if one.outcome.epochs]
    cells.append(_text(str(round(sum(samples) / len(samples))) if any(samples) else "none"))
    cells.append(_text(", ".join(epochs) or "-"))
    cells.append(_text(f"{row.seconds:.1f}"))
    return "reference" if row.arm == REFERENCE else "", cells


def _text(text: str) -> tuple[str, str]:
    return text, escape(text)


def number(value: float, digits: int = 4, sign: str = "") -> str:
    """So many digits that count, a dash for what is not defined; `sign` '+' shows a plus too."""
    return f"{value:{sign}.{digits}g}" if math.isfinite(value) else "-"


def _figure(one: Interval) -> tuple[str, str]:
    spread = f" ± {number(one.sd, 2)}" if math.isfinite(one.sd) else ""
    reach = f"{number(one.low, 3)} to {number(one.high, 3)}"
    return repr(one.mean), f"{number(one.mean)}{spread}<br><small>{reach}</small>"


def _note(results: Results) -> str:
    seeds = sorted({one.seed for row in results.rows for one in row.finished})
    return (
        f"<p>Mean over {len(seeds)} seed{'s' if len(seeds) > 1 else ''}"
        f"{' ± standard deviation' if len(seeds) > 1 else ''} and, small, the 95 % bootstrap "
        "interval over test patients (or samples, where the source names no patients). All arms of "
        "a seed share split, epochs and test rows; the epoch was chosen by validation loss, and "
        "the test rows were looked at once.</p>"
    )


def _undefined(results: Results) -> str:
    """How many draws left a metric undefined: they make its interval wider and p-values larger."""
    told = undefined_draws(results.rows)
    return f"<p>{escape('; '.join(told))}.</p>" if told else ""


def _paper(results: Results) -> str:
    if not results.published:
        return ""
    rows = []
    for one in results.published:
        published = [_text(f"{one.table}: {one.setting}"), _text(one.metric)]
        published.append(_text(number(one.value)))
        ours = [
            [_text(row.label), _figure(row.figures[one.metric])]
            for row in results.rows
            if one.stands_beside(row.arm, row.sweep) and one.metric in row.figures
        ]
        rows += [("", published + cells) for cells in ours or [[_text(one.arm), _text("-")]]]
    head = ["in the paper", "metric", "the paper's", "our arm", "ours"]
    notes = dict.fromkeys(f"{one.metric}: {one.note}. " for one in results.published if one.note)
    text = (
        "<p>The paper's data was not published, or not with its split and settings: its figures "
        f"stand here for orientation. {escape(''.join(notes))}</p>"
    )
    return _section("Beside the paper's own figures", table(head, rows), text)


def _differences(results: Results) -> str:
    compared = [row for row in results.rows if row.differences]
    if not compared:
        return ""
    head = ["arm", *results.swept]
    for name in results.compared:
        head += [f"{metric_label(name, results)}: minus {REFERENCE}", "p"]
    rows = []
    for row in compared:
        cells = [_text(row.arm), *(_text(row.sweep.get(key, "")) for key in results.swept)]
        for name in results.compared:
            cells += _difference(row.differences[name])
        rows.append(("", cells))
    text = (
        "<p>Paired bootstrap over the same test patients, with its 95 % interval and a two-sided "
        "p-value, not corrected for the number of comparisons. It covers the chance of who was "
        "tested, not the chance of the weights.</p>"
    )
    return _section(f"Differences to {REFERENCE}", table(head, rows), text)


def _difference(one: Difference) -> list[tuple[str, str]]:
    reach = f"{number(one.low, 3, '+')} to {number(one.high, 3, '+')}"
    shown = f"{number(one.mean, 4, '+')}<br><small>{reach}</small>"
    return [(repr(one.mean), shown), (repr(one.p), number(one.p, 2))]


def _pictures(drawn: Sequence[Picture], folder: Path) -> list[str]:
    shown = list(drawn)
    if (folder / f"{pictures.NAME}.png").is_file():
        shown.append(Picture(pictures.NAME, pictures.TITLE, pictures.ALT, pictures.CAPTION))
    return [_section(one.title, _picture(one, folder)) for one in shown]


def _picture(one: Picture, folder: Path) -> str:
    png = base64.b64encode((folder / f"{one.name}.png").read_bytes()).decode("ascii")
    narrow = ' class="narrow"' if one.name in ("roc", "calibration") else ""
    return (
        f'<figure><img{narrow} src="data:image/png;base64,{png}" alt="{escape(one.alt)}">'
        f"<figcaption>{escape(one.caption)}</figcaption></figure>"
    )


def _setup_table(results: Results) -> str:
    rows = "\n".join(
        f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>"
        for name, value in [
            *results.setup.items(),
            *((f"left out: {arm}", why) for arm, why in results.left_out.items()),
        ]
    )
    return f'<div class="wide"><table class="setup"><tbody>{rows}</tbody></table></div>'


def _seeds(results: Results) -> str:
    if all(len(row.finished) == 1 for row in results.rows):
        return ""
    name = results.metrics[0]
    rows = [
        ("", [_text(row.label), _text(str(one.seed)), (repr(value), number(value))])
        for row in results.rows
        for one, value in zip(row.finished, row.figures[name].seeds, strict=True)
    ]
    return _section("Every seed", table(["arm", "seed", metric_label(name, results)], rows))
