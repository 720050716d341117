"""A figure as SVG for a page: it follows the page's colours, its points can be read, and its steps are linked.

Colours of `style.COLOURS` become the variables of the page's style sheet, which has others for dark mode. A point of a
line that `readable` has marked has a text, which the page shows next to the pointer. `stepped` marks the axes on which
the page draws the selected training step, and lines named by `of_step` belong to one step each.
"""

import hashlib
import io
import json
import re
from html import escape
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from diffusion.report import style
from diffusion.report.formatting import number
from diffusion.report.images import spread

POINTS = 200  # readable points of a line
WIDE = 335  # 1/72 inch; a wider figure scrolls on a narrow screen instead of being shrunk


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
    for colour, variable in style.COLOURS.items():
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
                    usual = f"{name}\n{across} {style.grouped(data[i, 0])}\n{number(data[i, 1])}"
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
