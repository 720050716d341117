"""The style of all figures: paper sizes, a colour-blind-safe palette, few lines; and figures as PNG and SVG.

Figures use matplotlib's object-oriented API (never pyplot): drawing in a training process leaves no global state, opens
no window and needs no display.

In an SVG, the colours of `COLOURS` become the variables of the page's style sheet, which has others for dark mode. A
point of a line that `readable` has marked has a text, which the page shows next to the pointer. `stepped` marks the
axes on which the page draws the selected training step, and lines named by `of_step` belong to one step each.
"""

import hashlib
import io
import json
import re
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator, StrMethodFormatter

from diffusion.report.formatting import number
from diffusion.report.images import spread

P = ParamSpec("P")
R = TypeVar("R")

# Okabe & Ito (2008), "Color Universal Design": distinguishable with any common colour blindness, and in greyscale.
BLUE, VERMILION, GREEN, ORANGE, PURPLE = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7"
INK, GREY, LIGHT, RULE, GROUND = "#222222", "#7F7F7F", "#C8C8C8", "#E6E6E6", "#FFFFFF"
COLOURS = {  # the variables of page.css for them
    BLUE: "blue", VERMILION: "vermilion", GREEN: "green", ORANGE: "orange", PURPLE: "purple", INK: "ink",
    GREY: "grey", LIGHT: "light", RULE: "rule", GROUND: "ground",
}  # fmt: skip

COLUMN = (4.6, 2.9)  # inches: one figure in a text column
TEXT_WIDTH = 6.5  # inches: the width of an A4 or letter page's text
DPI = 200
POINTS = 200  # readable points of a line
WIDE = 335  # 1/72 inch; a wider figure scrolls on a narrow screen instead of being shrunk
FEWEST = 6  # columns of pictures that fill the width of the page; fewer are not enlarged further
THOUSANDS = StrMethodFormatter("{x:,.10g}")  # 12,000; 0.5

STYLE: Any = {
    "font.family": ["STIXGeneral", "DejaVu Sans"],  # ship with matplotlib, so figures look the same everywhere
    "mathtext.fontset": "stix",
    "font.size": 10,
    "axes.labelsize": 10,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": RULE,
    "grid.linewidth": 0.5,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "ytick.minor.width": 0.4,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "legend.handlelength": 1.8,
    "text.color": INK,
}


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


def plain(text: str) -> str:
    """A user's text for a figure, in which a dollar sign is no mathematics."""
    return text.replace("$", r"\$")


def count_axis(ax: Axes) -> None:
    """Label the x axis with whole numbers, such as `12,000`."""
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10]))
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
    if high < 4 * low:
        ax.yaxis.set_major_locator(MaxNLocator(5))
        ax.yaxis.set_minor_locator(NullLocator())
    else:
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))


def picture_rows(pictures: Sequence[Sequence[np.ndarray]], columns: Sequence[str], label: str) -> Figure:
    """Rows of pictures of the same size, uint8 (H, W, 3), with a text under each column and `label` left of the texts.

    The texts and the label have the same number of lines.

    A pixel is a square of a whole number of dots at 200 dpi, so the saved figure contains the exact values of the
    pictures. The figure is about as wide as the page's text; with fewer than `FEWEST` columns, a column is as wide as
    with `FEWEST`.
    """
    height, width = pictures[0][0].shape[:2]
    margin, gap, foot = 70, 6, 50 + 35 * label.count("\n")  # dots
    scale = max(1, round(((TEXT_WIDTH * DPI - margin) / max(FEWEST, len(columns)) - gap) / width))
    across, down = scale * width + gap, scale * height + gap
    total = np.array([margin + len(columns) * across - gap, len(pictures) * down - gap + foot])
    canvas = np.full((total[1], total[0], 3), 255, dtype=np.uint8)
    for i, row in enumerate(pictures):
        for j, picture in enumerate(row):
            top, left = i * down, margin + j * across
            pixels = picture.repeat(scale, axis=0).repeat(scale, axis=1)
            canvas[top : top + scale * height, left : left + scale * width] = pixels
    figure = Figure(figsize=tuple(total / DPI))
    ax = figure.add_axes((0, 0, 1, 1))  # one set of axes for all pictures, since each would cost 20 ms
    ax.imshow(canvas, interpolation="nearest", aspect="auto")
    ax.set_axis_off()
    line = (foot / 2 - 2) / total[1]
    for j, text in enumerate(columns):
        middle = (margin + j * across + (across - gap) / 2) / total[0]
        figure.text(middle, line, text, ha="center", va="center", fontsize=9)
    figure.text(4 / total[0], line, label, ha="left", va="center", fontsize=9)
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Write `figure` as PNG at 200 dpi; creates the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    return path


# ---------------------------------------------------------------------------------------- in a page


def readable(line: Line2D, name: str, across: str = "step", texts: list[str] | None = None) -> None:
    """Let the page show the points of `line` as text: `texts`, or by default NAME, ACROSS X and Y."""
    vars(line)["read"] = (name, across, texts)


def curve(ax: Axes, x: Any, y: Any, name: str, across: str = "step", **look: Any) -> Line2D:
    """Draw a line whose points the page can show as text."""
    (line,) = ax.plot(x, y, **look)
    readable(line, name, across)
    return line


def stepped(ax: Axes) -> None:
    """Let the page draw the selected training step in `ax`, whose x axis is linear in the step."""
    vars(ax)["stepped"] = True


def of_step(line: Line2D, step: int) -> None:
    """Let the page emphasize `line` if this training step is selected."""
    line.set_gid(f"step-{step}")


def svg(figure: Figure, label: str) -> str:
    """The figure as an SVG element whose ids no other figure has."""
    content = io.StringIO()
    nothing: Any = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with rc_context({"svg.fonttype": "path", "svg.hashsalt": "figure", "svg.image_inline": True}):
        figure.savefig(content, format="svg", metadata=nothing, transparent=True)
    text = content.getvalue()
    name = "c" + hashlib.sha256(text.encode()).hexdigest()[:8]
    body = re.sub(
        r"<metadata>.*?</metadata>|<!--.*?-->", "", text[text.index("<defs>") : text.rindex("</svg>")], flags=re.S
    )
    body = re.sub(r'(?<=\bd=")[^"]*', lambda path: re.sub(r"-?\d+\.\d+", _short, path[0].replace("\n", " ")), body)
    body = re.sub(r'(\bid="|xlink:href="#|url\(#)', rf"\g<1>{name}-", body).replace("xlink:href", "href")
    for colour, variable in COLOURS.items():
        body = re.sub(f'(?<=: ){colour}(?=[;"])', f"var(--{variable})", body, flags=re.I)
    width, height = 72 * figure.get_size_inches()
    least = width if width > WIDE else 0
    words = {
        "viewBox": f"0 0 {width:.5g} {height:.5g}",
        "role": "img",
        "aria-label": label.replace("`", ""),
        "style": f"max-width: {1.35 * width:.0f}px; min-width: {least:.0f}px",
        "data-points": json.dumps(_points(figure), ensure_ascii=False),
        "data-rule": json.dumps(rule) if (rule := _rule(figure)) else None,
    }
    attributes = "".join(f' {key}="{escape(value)}"' for key, value in words.items() if value is not None)
    return f"<svg{attributes}>{body}</svg>"


def _short(match: re.Match[str]) -> str:
    """A number to one decimal."""
    return f"{float(match[0]):.1f}".removesuffix(".0")


def _place(figure: Figure, ax: Axes, points: Any) -> np.ndarray:
    """Points (n, 2) of data as coordinates of the SVG: 72 per inch, from the top."""
    x, y = (ax.transData.transform(points) * 72 / figure.dpi).T
    return np.stack([x, 72 * figure.get_figheight() - y], axis=1)


def _points(figure: Figure) -> list[tuple[float, float, str]]:
    """x, y and text of each readable point."""
    found = []
    for ax in figure.axes:
        for line in ax.get_lines():
            if "read" in vars(line):
                name, across, texts = vars(line)["read"]
                data = np.asarray(line.get_xydata(), dtype=float)
                kept = [i for i in spread(len(data), POINTS) if np.isfinite(data[i]).all()]
                for i, (x, y) in zip(kept, _place(figure, ax, data[kept].reshape(-1, 2)), strict=True):
                    usual = f"{name}\n{across} {f'{data[i, 0]:,.6g}'}\n{number(data[i, 1])}"
                    found.append((round(float(x), 1), round(float(y), 1), texts[i] if texts else usual))
    return found


def _rule(figure: Figure) -> list[float] | None:
    """x of step 0, points per step, top and bottom of the axes with training steps; None without such axes."""
    for ax in figure.axes:
        if "stepped" in vars(ax):
            (zero, _), (far, _) = _place(figure, ax, [(0, ax.get_ylim()[0]), (1e6, ax.get_ylim()[0])])
            top, bottom = (72 * figure.get_figheight() - y * 72 / figure.dpi for y in (ax.bbox.y1, ax.bbox.y0))
            return [round(float(each), 7) for each in (zero, (far - zero) / 1e6, top, bottom)]
    return None
