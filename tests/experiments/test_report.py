"""The page, as a browser shows it, and `sltool report` and `compare` on a user's own runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sltool.experiments.regression_figures import density
from tests.conftest import ROOT, Sltool

pytest.importorskip("matplotlib", reason="pictures need sltool[report]")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


class Page(HTMLParser):
    """What stands in a page: pictures, links to elsewhere, and each table's first column."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.pictures: list[dict[str, str | None]] = []
        self.elsewhere: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "img":
            self.pictures.append(found)
        for name in ("src", "href"):
            if not (found.get(name) or "data:").startswith("data:"):
                self.elsewhere.append(found[name] or "")


STAGES = """
import sys
from sltool.cli.main import app
for stage in ("server-train --sites C --run C", "evaluate", "evaluate --run C", "report default C"):
    app([*stage.split(), "--quiet"], standalone_mode=False)
"""


@pytest.fixture(scope="module")
def reported(trained_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with a run of all sites and one of C alone, and the page about both."""
    folder = tmp_path_factory.mktemp("reported") / "study"
    shutil.copytree(trained_study, folder)
    # One process for all stages: `import torch` takes seconds.
    subprocess.run(
        [sys.executable, "-c", STAGES],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        timeout=300,
    )
    return folder


@pytest.fixture
def study(reported: Path, sltool: Sltool) -> Sltool:
    shutil.copytree(reported, sltool.folder, dirs_exist_ok=True)
    return sltool


def test_the_page_asks_for_nothing_and_describes_its_pictures(study: Sltool) -> None:
    text = (study.folder / "server" / "report" / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not page.elsewhere
    assert "http" not in re.sub(r"base64,[^\"]+", "", text)
    assert len(page.pictures) == 4
    assert all(len(picture["alt"] or "") > 40 for picture in page.pictures)
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text


def framed(text: str, width: int, script: str, tmp_path: Path) -> dict[str, Any]:
    """What `script` reports of the page in a viewport of `width` pixels.

    A frame, for a headless window has a least width. The script sets `found`.
    """
    report = f"<script>{script}; parent.document.title = JSON.stringify(found)</script></body>"
    inside = escape(text.replace("</body>", report))
    page = tmp_path / f"framed-{width}.html"
    page.write_text(
        f'<iframe style="border: 0; width: {width}px; height: 3000px" srcdoc="{inside}"></iframe>',
        encoding="utf-8",
    )
    done = browse(page, tmp_path, "--window-size=1400,3000", "--dump-dom")
    assert "CONSOLE" not in done.stderr
    found: dict[str, Any] = json.loads(
        unescape(re.search(r"<title>(.*?)</title>", done.stdout)[1])  # type: ignore[index]
    )
    return found


def browse(page: Path, tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Open a page in a headless Chromium with a profile of its own."""
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    profile = tmp_path / "profile"
    return subprocess.run(
        [
            *(CHROMIUM, *QUIET, f"--user-data-dir={profile}", "--enable-logging=stderr"),
            *("--virtual-time-budget=2000", *options, page.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env={**os.environ, "HOME": str(tmp_path)},
    )


SORTS = """<script>
const table = document.querySelector('table.sortable');
const column = () => [...table.tBodies[0].rows].map(row => row.cells[1].dataset.value);
const button = table.querySelectorAll('th button')[1];
const seen = [];
button.click(); seen.push(column());
button.click(); seen.push(column());
const wide = document.documentElement.scrollWidth > window.innerWidth;
const blank = [...document.images].filter(one => !one.naturalWidth || !one.alt).length;
document.title = JSON.stringify({seen, wide, blank});
</script></body>"""


def test_in_a_browser_it_renders_and_sorts(study: Sltool, tmp_path: Path) -> None:
    text = (study.folder / "server" / "report" / "report.html").read_text(encoding="utf-8")
    page = tmp_path / "report.html"
    page.write_text(text.replace("</body>", SORTS), encoding="utf-8")
    done = browse(page, tmp_path, "--window-size=400,800", "--dump-dom")
    found = json.loads(re.search(r"<title>(.*?)</title>", done.stdout)[1].replace("&quot;", '"'))  # type: ignore[index]
    up, down = ([float(value) for value in column] for column in found["seen"])
    assert up == sorted(up)
    assert down == sorted(up, reverse=True)
    assert len(up) == 2
    assert up[0] < up[1]
    assert not found["wide"], "on a phone the page itself must not scroll sideways"
    assert found["blank"] == 0
    assert "CONSOLE" not in done.stderr


LAYOUT = """
const tables = [...document.querySelectorAll('table')];
const cell = document.querySelector('.sortable tbody tr').cells[1];
const style = getComputedStyle(cell, '::before');
const widths = tables.map(table => table.getBoundingClientRect().right);
const pictures = [...document.images];
const found = {
  viewport: window.innerWidth,
  page: document.documentElement.scrollWidth,
  tables: Math.max(...widths),
  scrolling: [...document.querySelectorAll('*')].filter(element =>
    ['auto', 'scroll'].includes(getComputedStyle(element).overflowX)).length,
  card: getComputedStyle(cell).display,
  label: style.content,
  letters: Math.min(...pictures.map(image =>
    image.getBoundingClientRect().width / (image.naturalWidth / 200) * 9 / 72)),
  stacked: pictures.map(image => image.naturalHeight > image.naturalWidth),
}"""


def test_tables_fit_a_desk_and_are_cards_on_a_phone(study: Sltool, tmp_path: Path) -> None:
    text = (study.folder / "server" / "report" / "report.html").read_text(encoding="utf-8")
    desk = framed(text, 1200, LAYOUT, tmp_path)
    assert (desk["viewport"], desk["card"], desk["scrolling"]) == (1200, "table-cell", 0)
    assert max(desk["page"], desk["tables"]) <= 1200
    assert desk["stacked"] == [False] * 4
    phone = framed(text, 400, LAYOUT, tmp_path)
    assert (phone["viewport"], phone["card"], phone["scrolling"]) == (400, "flex", 0)
    assert max(phone["page"], phone["tables"]) <= 400
    assert "attr(data-label)" in phone["label"] or "RMSLE" in phone["label"]
    # Panels stand below each other, and their letters have 9 points at 200 pixels an inch.
    assert phone["stacked"] == [True] * 4
    assert phone["letters"] >= 10


def test_the_check_sees_a_console_error(tmp_path: Path) -> None:
    page = tmp_path / "broken.html"
    page.write_text("<script>nonsense()</script>", encoding="utf-8")
    assert "CONSOLE" in browse(page, tmp_path, "--dump-dom").stderr


@pytest.mark.slow
def test_report_on_own_runs(study: Sltool) -> None:
    done = study("report", "default", "C", "--json").ok()
    first, other = done.json["arms"]
    assert (first["arm"], other["arm"]) == ("default", "C")
    assert other["against_reference"]["smape"]["mean"] == pytest.approx(
        other["metrics"]["smape"]["mean"] - first["metrics"]["smape"]["mean"]
    )
    evaluated = study("evaluate", "--metrics", "smape", "--json").ok()
    assert first["metrics"]["smape"]["mean"] == pytest.approx(evaluated.json["metrics"]["smape"])
    # A run has one seed, and so no spread.
    assert "±" not in study("report", "default", "C").ok().out


def test_report_never_shows_a_patient(study: Sltool) -> None:
    """At the server there are only feature maps, and not even they are drawn."""
    names = {path.name for path in (study.folder / "server" / "report" / "figures").iterdir()}
    assert not any(name.startswith("feature-maps") for name in names)


def test_report_mistakes(study: Sltool) -> None:
    wrong = study("report", "defualt")
    assert wrong.code == 2
    assert "did you mean 'default'" in wrong.err


def test_compare_with_intervals(study: Sltool) -> None:
    done = study("compare", "default", "C", "--intervals", "--json").ok()
    first, other = done.json["runs"]
    assert first["intervals"]["smape"]["low"] < first["metrics"]["smape"]
    assert first["metrics"]["smape"] < first["intervals"]["smape"]["high"]
    assert 0 < other["against_first"]["smape"]["p"] <= 1
    shown = study("compare", "default", "C", "--intervals").ok()
    assert "p smape" in shown.out
    chosen = study("compare", "C", "--intervals", "--metrics", "mse", "--json").ok().json["runs"][0]
    assert list(chosen["metrics"]) == list(chosen["intervals"]) == ["mse"]
    wrong = study("compare", "--metrics", "sampe")
    assert wrong.code == 2
    assert "did you mean 'smape'" in wrong.err


def test_a_density_has_no_mass_below_zero() -> None:
    values = np.abs(np.random.default_rng(0).normal(0, 2, 2000))
    grid = np.linspace(0, 20, 400)
    found = density(values, grid)
    assert np.trapezoid(found, grid) == pytest.approx(1, abs=0.01)
    half_normal = 2 / np.sqrt(8 * np.pi) * np.exp(-(grid**2) / 8)
    assert np.abs(found - half_normal).max() < 0.03
    # A quarter of the values lies beyond the grid.
    short = np.linspace(0, np.quantile(values, 0.75), 400)
    assert np.trapezoid(density(values, short), short) == pytest.approx(0.75, abs=0.05)
    assert np.isnan(density(np.full(50, 1e-12), grid)).all()


PLUGIN = """
import numpy as np

from sltool.registry import metrics
from sltool.weighted import mean, weighted


@metrics.register("worst", kinds=("regression",), better="lower", unit="label")
def worst(y_true, y_pred):
    "The largest error, which has no weighted form."
    return float(np.abs(y_true - y_pred).max())


@metrics.register("off-by-20", kinds=("regression",), better="lower", unit="%")
@weighted
def off_by_20(y_true, y_pred, weights):
    "Share of the samples that are 20 or more off."
    return mean(100.0 * (np.abs(y_true - y_pred) >= 20), weights)
"""


@pytest.mark.slow
def test_a_plug_ins_metric_is_in_report_and_compare(study: Sltool, tmp_path: Path) -> None:
    plugin = tmp_path / "plugin.py"
    plugin.write_text(PLUGIN)
    with_it = ("default", "C", "--plugins-dir", plugin)
    for arm in study("report", *with_it, "--json").ok().json["arms"]:
        assert {"worst", "off-by-20"} < arm["metrics"].keys()
        figure = arm["metrics"]["worst"]
        assert 0 < figure["low"] < figure["mean"]
        assert figure["undefined"] == 0
    page = (study.folder / "server" / "report" / "report.html").read_text()
    assert "worst [mg/dL]" in page
    assert "off-by-20 [%]: minus" in page
    table = (study.folder / "server" / "report" / "results.csv").read_text()
    assert "default,worst," in table
    shown = study("compare", *with_it, "--intervals").ok().out
    assert "p worst" in shown
    assert "p off-by-20" in shown


@pytest.mark.slow
def test_resamples_with_an_undefined_metric_are_reported(study: Sltool, tmp_path: Path) -> None:
    plugin = tmp_path / "plugin.py"
    plugin.write_text(
        PLUGIN.replace("return float(", "return float('nan') if y_true.max() < 180 else float(")
    )
    ran = study("report", "default", "--plugins-dir", plugin, "--json").ok()
    figure = ran.json["arms"][0]["metrics"]["worst"]
    assert 0 < figure["undefined"] < 2000
    message = f"default: worst is undefined in {figure['undefined']} of 2000 resamples"
    assert message in ran.err
    assert message in (study.folder / "server" / "report" / "report.html").read_text()
    assert message in study("compare", "default", "--intervals", "--plugins-dir", plugin).ok().err
