"""Place text labels next to the points of a figure without covering points or other labels."""

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

# Directions from a point to its text, in order of preference.
AROUND = ((1, 1), (-1, 1), (1, -1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1))
NEAR, STEP, RINGS = 0.5, 4.0, 2  # distance from marker to text and its increment, in points; distances tried
MARKER = 3.0  # half the width of a marker, in points (1/72 inch)


class Label(NamedTuple):
    """A point in data coordinates, and the text next to it."""

    x: float
    y: float
    text: str
    colour: str


def place(figure: Figure, ax: Axes, labels: Sequence[Label]) -> list[Annotation]:
    """Place the labels in order of priority, skip those without room, and return the placed ones.

    This freezes the layout of the figure, so call it last.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    dots = figure.dpi / 72
    centres = ax.transData.transform([(label.x, label.y) for label in labels])
    half = MARKER * dots
    taken = [Bbox.from_extents(x - half, y - half, x + half, y + half) for x, y in centres]
    written = []
    for label, (x, y) in zip(labels, centres, strict=True):
        text = ax.annotate(
            label.text, (label.x, label.y), (0, 0), textcoords="offset points", ha="center", va="center", fontsize=8,
            color=label.colour, path_effects=[withStroke(linewidth=2, foreground="white")],
        )  # fmt: skip
        size = text.get_window_extent()
        for ring, (right, up) in ((ring, way) for ring in range(RINGS) for way in AROUND):
            away = half + (NEAR + ring * STEP) * dots
            dx, dy = right * (away + size.width / 2), up * (away + size.height / 2)
            box = Bbox.from_bounds(x + dx - size.width / 2, y + dy - size.height / 2, size.width, size.height)
            if ax.bbox.contains(*box.min) and ax.bbox.contains(*box.max) and not box.count_overlaps(taken):
                text.set_position((dx / dots, dy / dots))
                taken.append(box)
                written.append(text)
                break
        else:
            text.remove()
    return written
