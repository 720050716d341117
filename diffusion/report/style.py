"""The style of all figures: paper sizes, a colour-blind-safe palette, few lines; and figures as PNG and SVG.

Figures use matplotlib's object-oriented API (never pyplot): drawing in a training process leaves no global state, opens
no window and needs no display. In an SVG, the colours become variables of the page's style sheet, which has others for
dark mode.
"""

import hashlib
import io
import re
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator, StrMethodFormatter

P = ParamSpec("P")
R = TypeVar("R")

# Okabe & Ito (2008), "Color Universal Design": distinguishable with any common colour blindness, and in greyscale.
BLUE, VERMILION, GREEN, ORANGE, PURPLE = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7"
INK, GREY, LIGHT, RULE, GROUND = "#222222", "#7F7F7F", "#C8C8C8", "#E6E6E6", "#FFFFFF"
COLOURS = {  # the variables of page.css for them
    BLUE: "blue", VERMILION: "vermilion", GREEN: "green", ORANGE: "orange", PURPLE: "purple", INK: "ink",
    GREY: "grey", LIGHT: "light", RULE: "rule", GROUND: "ground",
}  # fmt: skip
HUES = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, GREY, INK)
LOOKS = [{"color": HUES[i], "marker": "os^DvPX"[(i + k) % 7]} for k in range(7) for i in range(7)]  # all different

COLUMN = (4.6, 2.9)  # inches: one figure in a text column
TEXT_WIDTH = 6.5  # inches: the width of an A4 or letter page's text
DPI = 200
POINTS = 300  # most points of a curve whose values are shown at the pointer
THOUSANDS = StrMethodFormatter("{x:,.10g}")  # 12,000; 0.5

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


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Decorator: call a drawing function under `STYLE`, and restore matplotlib's settings afterwards."""
    return rc_context(STYLE)(draw)


def axes(size: tuple[float, float] = COLUMN) -> tuple[Figure, Axes]:
    """A figure of `size` inches with one set of axes."""
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.add_subplot()


def sequence(n: int) -> list[Any]:
    """`n` colours from early (light) to late (dark), ordered by lightness; all are readable on white and on black."""
    return [colormaps["viridis_r"](x) for x in np.linspace(0.12, 0.68, n)] if n > 1 else [BLUE]


def spread(n: int, most: int) -> list[int]:
    """The indices 0 … n − 1, or `most` evenly spaced ones with both ends if there are more."""
    return np.linspace(0, n - 1, min(n, most)).round().astype(int).tolist()


def plain(text: str) -> str:
    """A user's text for a figure, in which a dollar sign is no mathematics."""
    return text.replace("$", r"\$")


def count_axis(ax: Axes, most: int = 6) -> None:
    """Begin the x axis at 0, and label it with whole numbers, such as `12,000`."""
    ax.set_xlim(left=0)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=most, integer=True, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(THOUSANDS)


def plain_numbers(axis: Axis) -> None:
    """Label a logarithmic axis with plain numbers (0.02, 0.5, 10)."""
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def log_mse(ax: Axes) -> None:
    """Set a logarithmic y axis, labelled at 0.01, 0.02, 0.05, 0.1, …; at more numbers if its range is short."""
    ax.set_yscale("log")
    plain_numbers(ax.yaxis)
    low, high = ax.get_ylim()
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
    if high < 4 * low:
        ax.yaxis.set_major_locator(MaxNLocator(5))
        ax.yaxis.set_minor_locator(NullLocator())


def legend_below(figure: Figure, ax: Axes) -> None:
    """A legend below the figure, with as many columns as fit."""
    handles, names = ax.get_legend_handles_labels()
    columns = max(1, min(3, 64 // (8 + max(map(len, names), default=1))))
    figure.legend(handles, names, loc="outside lower center", ncols=columns)


def picture_rows(pictures: Sequence[Sequence[np.ndarray]], columns: Sequence[str], label: str) -> Figure:
    """Rows of pictures of one size, uint8 (H, W, 3), with a text under each column and `label` left of the texts.

    A pixel is a whole number of dots wide, so that the saved figure contains the exact values of the pictures.
    """
    gap = ((0, 1), (0, 1), (0, 0))
    rows = [np.concatenate([np.pad(each, gap, constant_values=255) for each in row], axis=1) for row in pictures]
    canvas = np.concatenate(rows)
    width = canvas.shape[1] // len(columns)
    scale = max(1, round(TEXT_WIDTH * DPI / max(6 * width, canvas.shape[1])))  # few columns are not enlarged further
    margin, foot = 70, 50 + 35 * label.count("\n")  # dots
    down, across = scale * canvas.shape[0], scale * canvas.shape[1]
    figure = Figure(figsize=((margin + across) / DPI, (foot + down) / DPI))
    ax = figure.add_axes((margin / (margin + across), foot / (foot + down), across / (margin + across),
                          down / (foot + down)))  # fmt: skip
    ax.imshow(canvas, interpolation="nearest", aspect="auto")
    ax.set_axis_off()
    middle = foot / 2 / (foot + down)
    for j, text in enumerate(columns):
        x = (margin + (j + 0.5) * scale * width) / (margin + across)
        figure.text(x, middle, text, ha="center", va="center", fontsize=9)
    figure.text(4 / (margin + across), middle, label, ha="left", va="center", fontsize=9)
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Write `figure` as PNG at 200 dpi; creates the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    return path


def svg(figure: Figure, label: str, by_step: bool = False) -> str:
    """The figure as an SVG element whose ids no other figure has.

    If the x axis of its axes is the training step (`by_step`), `data-rule` has x of step 0, the width of a step, and
    top and bottom, with which the page draws the selected step.
    """
    content, nothing = io.StringIO(), dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with rc_context({"svg.fonttype": "path", "svg.hashsalt": "figure", "svg.image_inline": True}):
        figure.savefig(content, format="svg", metadata=nothing, transparent=True)
    text = content.getvalue()
    name = "c" + hashlib.sha256(text.encode()).hexdigest()[:8]
    body = text[text.index("<defs>") : text.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.S)
    body = re.sub(r'(?<=\bd=")[^"]*', lambda path: re.sub(r"-?\d+\.\d+", _short, path[0].replace("\n", " ")), body)
    body = re.sub(r'(\bid="|xlink:href="#|url\(#)', rf"\g<1>{name}-", body).replace("xlink:href", "href")
    for colour, variable in COLOURS.items():
        body = re.sub(f'(?<=: ){colour}(?=[;"])', f"var(--{variable})", body, flags=re.I)
    width, height = 72 * figure.get_size_inches()
    rule = ""
    if by_step:
        (left, bottom), (right, top) = figure.axes[0].get_position().get_points() * (width, height)
        last = figure.axes[0].get_xlim()[1]  # the first step is 0
        rule = f' data-rule="[{left:.1f}, {(right - left) / last:.9f}, {height - top:.1f}, {height - bottom:.1f}]"'
    points = "".join(_points(ax, 72 / figure.dpi, height) for ax in figure.axes)
    return (
        f'<svg viewBox="0 0 {width:.5g} {height:.5g}" role="img" aria-label="{escape(label.replace("`", ""))}" '
        f'style="max-width: {1.35 * width:.0f}px"{rule}>{body}{points}</svg>'
    )


def _points(ax: Axes, scale: float, height: float) -> str:
    """An invisible circle on each point of the curves with a name; browsers show its title at the pointer."""
    bars = [each for each in ax.containers if isinstance(each, ErrorbarContainer)]
    curves = [(each.get_label(), each) for each in ax.lines] + [(each.get_label(), each.lines[0]) for each in bars]
    circles = []
    for name, line in curves:
        if str(name).startswith("_"):  # matplotlib's own name
            continue
        data = np.asarray(line.get_xydata(), dtype=float)
        data = data[spread(len(data), POINTS)]
        data = data[np.isfinite(data).all(axis=1)]
        words = escape(re.sub(r"\s*(?<!\\)\$.*?(?<!\\)\$", "", str(name)).replace(r"\$", "$"))
        for (x, y), (across, up) in zip(data, scale * ax.transData.transform(data), strict=True):
            title = f"<title>{words}: {y:.4g} at {x:,.6g}</title>"
            circles.append(f'<circle cx="{across:.1f}" cy="{height - up:.1f}" r="4">{title}</circle>')
    return "".join(circles)


def _short(match: re.Match[str]) -> str:
    """A number to one decimal."""
    return f"{float(match[0]):.1f}".removesuffix(".0")
