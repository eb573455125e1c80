"""How pictures look, and how they are written: PNG and SVG, legible for the colour-blind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sltool.errors import UsageError
from sltool.files import publish

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe & Ito, "Color Universal Design", 2008, without its yellow, which is too pale for lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")
LOOK: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    # The same picture, the same bytes.
    "svg.hashsalt": "sltool",
}
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def colour(number: int) -> str:
    """The colour of series `number`."""
    return COLOURS[number % len(COLOURS)]


def line(number: int) -> dict[str, Any]:
    """Colour and dashes of series `number`; no two of the first 28 look alike."""
    dashes = DASHES[(number // len(COLOURS) + number % len(COLOURS)) % len(DASHES)]
    return {"color": colour(number), "linestyle": dashes, "linewidth": 1.6}


def new_figure(width: float, height: float, columns: int = 1, rows: int = 1) -> tuple[Any, Any]:
    """A figure and its (rows, columns) array of axes, sizes in inches.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(
            "pictures need matplotlib", hint="install sltool[report], then run the command again"
        ) from error
    matplotlib.rcParams.update(LOOK)
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def save(figure: Figure, path: Path, *, public: bool = True) -> None:
    """Publish `path`.png and `path`.svg; a picture that shows a patient is not public."""
    for kind, options in (("png", {"dpi": 150}), ("svg", {"metadata": {"Date": None}})):
        with publish(path.with_name(f"{path.name}.{kind}"), public=public) as part:
            figure.savefig(part, format=kind, **options)


@dataclass(frozen=True)
class Picture:
    """A picture that was written: `NAME.png` and `NAME.svg` in the figures' folder."""

    name: str
    title: str
    alt: str
    caption: str
