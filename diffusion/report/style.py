"""The style of all figures: paper sizes, a colour-blind-safe palette, few lines; and figures as PNG and SVG.

Figures use matplotlib's object-oriented API (never pyplot): drawing in a training process leaves no global state, opens
no window and needs no display. In an SVG, the colours become variables of the page's style sheet, which has others for
dark mode.
"""

import io
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from threading import RLock
from typing import Any, Concatenate
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from diffusion.base.pixels import spread
from diffusion.report.page import Block, html, picture

# Okabe & Ito (2008), "Color Universal Design": distinguishable with any common colour blindness, and in greyscale.
BLUE, VERMILION, GREEN, ORANGE, PURPLE = "#0072b2", "#d55e00", "#009e73", "#e69f00", "#cc79a7"
INK, GREY, LIGHT, RULE = "#222222", "#7f7f7f", "#c8c8c8", "#e6e6e6"
COLOURS = {  # the variables of page.css for them
    BLUE: "blue", VERMILION: "vermilion", GREEN: "green", ORANGE: "orange", PURPLE: "purple", INK: "ink", GREY: "grey",
    LIGHT: "light", RULE: "rule", "#ffffff": "ground",
}  # fmt: skip
HUES = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, GREY, INK)
LOOKS: Any = [{"color": HUES[i], "marker": "os^DvPX"[(i + k) % 7]} for k in range(7) for i in range(7)]  # 49

COLUMN, TALL = (4.6, 2.9), (4.6, 3.3)  # inches: one figure in a text column; one with a legend below
DPI = 200
POINTS = 300  # most points of a curve, whose values are shown at the pointer
STEPS = "training step"  # the label of an axis, on which the page shows the selected step

STYLE: Any = {
    "font.family": ["STIXGeneral", "DejaVu Sans"],  # ship with matplotlib, so figures look the same everywhere
    "mathtext.fontset": "stix",
    "font.size": 10, "axes.labelsize": 10, "xtick.labelsize": 9, "ytick.labelsize": 9, "legend.fontsize": 9,
    "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "axes.linewidth": 0.6,
    "axes.grid": True, "grid.color": RULE, "grid.linewidth": 0.5,
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "ytick.minor.width": 0.4,
    "lines.linewidth": 1.6, "lines.solid_capstyle": "round",
    "legend.frameon": False, "legend.handlelength": 1.8,
}  # fmt: skip
ALONE = RLock()
NAMESPACE = "http://www.w3.org/2000/svg"
NO_METADATA: Any = dict.fromkeys(("Creator", "Date", "Format", "Type"))
ElementTree.register_namespace("", NAMESPACE)
ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")


@contextmanager
def matplotlib_settings(chosen: Any) -> Iterator[None]:
    """A context with these settings of matplotlib, which are the process's: one thread at a time. Then the old ones."""
    with ALONE, rc_context(chosen):
        yield


class Chart(Block):
    """A figure: SVG in a page; in Markdown, a link to its PNG `file`, relative to the report, if it has one."""

    def __init__(self, caption: str, figure: Figure, file: str = ""):
        super().__init__(picture(file, caption) if file else "")
        self.caption, self.figure, self.file = caption, figure, file

    def shown(self) -> Markup:
        return html("chart", caption=self.caption, svg=Markup(svg(self.figure, self.caption)))

    def save(self, folder: Path) -> list[Path]:
        """See `Block`; PNG at 200 dpi."""
        if not self.file:
            return []
        path = folder / self.file
        path.parent.mkdir(parents=True, exist_ok=True)
        self.figure.savefig(path, dpi=DPI)
        return [path]


def chart(file: str = "", size: tuple[float, float] = COLUMN) -> Callable[..., Callable[..., Chart]]:
    """A decorator: a function that draws data on a figure of `size` inches, and returns the caption, makes a chart.

    `file` is the PNG of the chart, relative to the folder of the report.
    """

    def decorate(draw: Callable[Concatenate[Figure, ...], str]) -> Callable[..., Chart]:
        @wraps(draw)
        @matplotlib_settings(STYLE)
        def drawn(*data: Any, **how: Any) -> Chart:
            figure = Figure(size, layout="constrained")
            return Chart(draw(figure, *data, **how), figure, file)

        return drawn

    return decorate


def thinned(series: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The steps and values of at most `POINTS` points of a series."""
    return [part[spread(len(part), POINTS)] for part in series]


def plain(text: str) -> str:
    """A user's text for a figure, in which a dollar sign is no mathematics."""
    return text.replace("$", r"\$")


def count_axis(ax: Axes, most: int = 6) -> None:
    """Begin the x axis at 0, and label it with whole numbers, such as `12,000`."""
    ax.set_xlim(left=0)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=most, integer=True, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.10g}"))


def log_axis(ax: Axes) -> None:
    """Set a logarithmic y axis, labelled at 0.01, 0.02, 0.05, 0.1, …; at more numbers if its range is short."""
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12) if high > 4 * low else MaxNLocator(5))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def legend_below(figure: Figure, ax: Axes) -> None:
    """A legend below the figure, with as many columns as fit."""
    handles, names = ax.get_legend_handles_labels()
    columns = max(1, min(3, 64 // (8 + max(map(len, names), default=1))))
    figure.legend(handles, names, loc="outside lower center", ncols=columns)


def svg(figure: Figure, label: str) -> str:
    """The figure as an SVG element with the page's colours, whose points have titles.

    If the x axis is the training step, `data-rule` has x of step 0, the width of a step, and top and bottom, with which
    the page draws the selected step.
    """
    content = io.StringIO()
    with matplotlib_settings({"svg.hashsalt": "figure"}):  # equal definitions of two figures have equal ids
        figure.savefig(content, format="svg", transparent=True, metadata=NO_METADATA)
    root = ElementTree.fromstring(content.getvalue())
    for group in root.iter(f"{{{NAMESPACE}}}g"):
        group.attrib.pop("id", None)  # other figures of the page have the same
    width, height = 72 * figure.get_size_inches()
    root.attrib = {"viewBox": f"0 0 {width:.5g} {height:.5g}", "role": "img", "aria-label": label}
    root.set("style", f"max-width: {1.35 * width:.0f}px")
    scale = 72 / figure.dpi
    for ax in figure.axes:
        if ax.get_xlabel() == STEPS:
            (zero, bottom), (one, top) = scale * ax.transData.transform([(0, ax.get_ylim()[0]), (1, ax.get_ylim()[1])])
            root.set("data-rule", f"[{zero:.1f}, {one - zero:.9f}, {height - top:.1f}, {height - bottom:.1f}]")
        for x, y, title in _points(ax):
            across, up = scale * ax.transData.transform((x, y))
            circle = ElementTree.SubElement(root, "circle", cx=f"{across:.1f}", cy=f"{height - up:.1f}", r="4")
            ElementTree.SubElement(circle, "title").text = title  # browsers show it at the pointer
    text = ElementTree.tostring(root, encoding="unicode")
    for colour, variable in COLOURS.items():
        text = text.replace(colour, f"var(--{variable})")
    return text


def _points(ax: Axes) -> Iterator[tuple[float, float, str]]:
    """Yield the points of the curves with a name, and their titles."""
    bars = [each for each in ax.containers if isinstance(each, ErrorbarContainer)]
    for name, line in [*((each.get_label(), each) for each in ax.lines), *((b.get_label(), b.lines[0]) for b in bars)]:
        words = str(name).partition(" $")[0].replace(r"\$", "$")  # without the symbol
        data = np.asarray(line.get_xydata(), dtype=float)
        for x, y in data[spread(len(data), POINTS)] if words[:1] != "_" else ():  # which begins matplotlib's own names
            if math.isfinite(x) and math.isfinite(y):
                yield x, y, f"{words}: {y:.4g} at {x:,.6g}"
