"""Style and output of pictures: PNG and SVG, in colours that are safe for colour blindness."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sltool.files import publish
from sltool.machine import need

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
    # Makes the SVG files reproducible byte for byte.
    "svg.hashsalt": "sltool",
}
# At this width, in inches, text in the picture is as large on a phone as the text around it.
NARROW_WIDTH = 4.0
NARROW_DPI = 200
NARROW_LEGEND = 3
NARROW_LABEL = 22
NARROW = "-narrow"
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def need_matplotlib() -> None:
    """Raise `MissingPackageError` unless pictures can be drawn."""
    need("matplotlib", "a report with pictures", "report")


def colour(index: int) -> str:
    """The colour of the series at `index`."""
    return COLOURS[index % len(COLOURS)]


def line(index: int) -> dict[str, Any]:
    """Colour and dashes of the series at `index`; the first 28 series all differ."""
    dashes = DASHES[(index // len(COLOURS) + index % len(COLOURS)) % len(DASHES)]
    return {"color": colour(index), "linestyle": dashes, "linewidth": 1.6}


@dataclass(frozen=True)
class Sheet:
    """The layout of pictures: for a wide screen or, with the panels below each other, for a phone.

    Attributes:
        folder: receives NAME.png and NAME.svg, or NAME-narrow.png from a narrow sheet.
    """

    folder: Path
    narrow: bool = False

    def figure(
        self, width: float, height: float, columns: int = 1, rows: int = 1
    ) -> tuple[Figure, Any]:
        """A figure and its (rows, columns) array of axes, sizes in inches on a wide sheet.

        On a narrow sheet the layout of the panels is transposed, but not the array.

        Raises:
            MissingPackageError: matplotlib is not installed.
        """
        need_matplotlib()
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        matplotlib.rcParams.update(LOOK)
        size = (NARROW_WIDTH, height / rows * columns) if self.narrow else (width, height)
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        if self.narrow:
            return figure, figure.subplots(columns, rows, squeeze=False).T
        return figure, figure.subplots(rows, columns, squeeze=False)

    def label(self, text: str) -> str:
        """An axis label that fits its panel: wrapped on a narrow sheet."""
        return textwrap.fill(text, NARROW_LABEL) if self.narrow else text

    def legend_below(self, figure: Figure, axis: Any, columns: int) -> None:
        """One legend for all panels, of the series in `axis`."""
        ncols = min(columns, NARROW_LEGEND) if self.narrow else columns
        handles, labels = axis.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=ncols)

    def save(self, figure: Figure, name: str, *, public: bool = True) -> None:
        """Publish the files of a figure, once; one that shows patients needs `public=False`."""
        # Laid out once: while the figure has its layout engine, each `savefig` does it again.
        figure.draw_without_rendering()
        figure.set_layout_engine(None)
        if self.narrow:
            _publish(figure, self.folder / f"{name}{NARROW}.png", public, dpi=NARROW_DPI)
        else:
            _publish(figure, self.folder / f"{name}.png", public, dpi=150)
            _publish(figure, self.folder / f"{name}.svg", public, metadata={"Date": None})


def _publish(figure: Figure, path: Path, public: bool, **options: Any) -> None:
    with publish(path, public=public) as part:
        figure.savefig(part, format=path.suffix[1:], **options)


@dataclass(frozen=True)
class Picture:
    """A written picture; `name` is its file name in the figures folder, without suffix."""

    name: str
    title: str
    alt: str
    caption: str
