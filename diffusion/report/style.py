"""The style of all figures: paper sizes, a colour-blind-safe palette, few lines; and figures as PNG and SVG.

Figures use matplotlib's object-oriented API (never pyplot): drawing in a training process leaves no global state, opens
no window and needs no display. In an SVG, the colours become variables of the page's style sheet, which has others for
dark mode.
"""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from diffusion.pixels import spread

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


@contextmanager
def matplotlib_settings(chosen: Any) -> Iterator[None]:
    """A context with these settings of matplotlib, which are the process's: one thread at a time. Then the old ones."""
    with ALONE, rc_context(chosen):
        yield


styled = matplotlib_settings(STYLE)  # a decorator of functions that draw


def axes(size: tuple[float, float] = COLUMN) -> tuple[Figure, Axes]:
    """A figure of `size` inches with one set of axes."""
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.add_subplot()


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


def save(figure: Figure, path: Path) -> Path:
    """Write `figure` as PNG at 200 dpi; creates the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    return path


def svg(figure: Figure, label: str) -> str:
    """The figure as an SVG element with the page's colours, whose points have titles.

    If the x axis is the training step, `data-rule` has x of step 0, the width of a step, and top and bottom, with which
    the page draws the selected step.
    """
    content = io.StringIO()
    with matplotlib_settings({"svg.hashsalt": "figure"}):  # equal definitions of two figures have equal ids
        figure.savefig(content, format="svg", transparent=True)
    text = content.getvalue()
    body = re.sub(r'<!--.*?-->| id="[\w.]+_\d+"', "", text[text.index("<defs>") : text.rindex("</svg>")], flags=re.S)
    body = re.sub(r'\bd="[^"]*', lambda path: re.sub(r"(\.\d)\d+", r"\1", path[0].replace("\n", " ")), body)
    for colour, variable in COLOURS.items():
        body = body.replace(colour, f"var(--{variable})")
    width, height = 72 * figure.get_size_inches()
    rule, ax, (low, high) = "", figure.axes[0], figure.axes[0].get_ylim()
    if ax.get_xlabel() == STEPS:
        (zero, bottom), (one, top) = 72 / figure.dpi * ax.transData.transform([(0, low), (1, high)])
        rule = f' data-rule="[{zero:.1f}, {one - zero:.9f}, {height - top:.1f}, {height - bottom:.1f}]"'
    points = "".join(_points(ax, 72 / figure.dpi, height) for ax in figure.axes)
    return (
        f'<svg viewBox="0 0 {width:.5g} {height:.5g}" role="img" aria-label="{escape(label.replace("`", ""))}" '
        f'style="max-width: {1.35 * width:.0f}px"{rule}>{body}{points}</svg>'
    )


def _points(ax: Axes, scale: float, height: float) -> str:
    """An invisible circle on each point of the curves with a name; browsers show its title at the pointer."""
    bars = [each for each in ax.containers if isinstance(each, ErrorbarContainer)]
    circles = []
    for name, line in [*((each.get_label(), each) for each in ax.lines), *((b.get_label(), b.lines[0]) for b in bars)]:
        data = np.asarray(line.get_xydata(), dtype=float)
        data = data[spread(len(data), POINTS)]
        data = data[np.isfinite(data).all(axis=1) & (str(name)[:1] != "_")]  # which begins matplotlib's own names
        words = escape(re.sub(r"\s*(?<!\\)\$.*?(?<!\\)\$", "", str(name)).replace(r"\$", "$"))
        for (x, y), (across, up) in zip(data, scale * ax.transData.transform(data), strict=True):
            title = f"<title>{words}: {y:.4g} at {x:,.6g}</title>"
            circles.append(f'<circle cx="{across:.1f}" cy="{height - up:.1f}" r="4">{title}</circle>')
    return "".join(circles)
