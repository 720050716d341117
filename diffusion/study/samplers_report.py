"""The report of a sampler study: scores by network evaluations and by seconds, and the best sampler per budget."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator
from rich import box
from rich.table import Table

from diffusion.console import console, count
from diffusion.files import replace
from diffusion.metric.record import Score
from diffusion.report import style
from diffusion.report.formatting import (
    MISSING,
    csv_text,
    half_width,
    markdown_table,
    number,
    protocol_text,
    value_text,
)

FLOOR = (
    "The floor is the score of as many real images as samples (or of all, if there are fewer) against others: chance "
    "alone."
)
ALIKE = "not shown to be worse"  # the title of a column
CAUTION = (
    "The last column lists the settings whose difference from the best is within its 95% interval. Since all settings "
    "share their noise, the real interval is narrower, and some of them may be worse."
)
COLOURS = (style.BLUE, style.VERMILION, style.GREEN, style.ORANGE, style.PURPLE, style.GREY, style.INK)
MARKERS = "os^DvPX"


class Point(NamedTuple):
    """One setting: a sampler, its steps, network evaluations and seconds per image, and its scores by metric.

    `scale` and the interval (`low`, `high`] are those of the guidance; None: unbounded. Without guidance, scale is 1.
    """

    sampler: str
    steps: int
    nfe: int
    seconds: float
    scores: Mapping[str, Score]
    scale: float = 1.0
    low: float | None = None
    high: float | None = None

    @property
    def interval(self) -> str:
        """The interval as text: `(0.19, 1.61]`, `everywhere`, or nothing without guidance."""
        return "" if self.scale == 1 else interval_text(self.low, self.high)

    @property
    def guidance(self) -> str:
        """The scale and, if limited, its interval: `2`, or `2 in (0.19, 1.61]`."""
        limited = self.scale != 1 and (self.low, self.high) != (None, None)
        return f"{self.scale:g} in {self.interval}" if limited else f"{self.scale:g}"


def interval_text(low: float | None, high: float | None) -> str:
    """An interval of noise levels: `(0.19, 1.61]`, `(0, 1.61]`, `above 0.19`, `everywhere`."""
    if high is None:
        return "everywhere" if low is None else f"above {number(low)}"
    return f"({number(low or 0)}, {number(high)}]"


def write(
    points: Sequence[Point],
    budgets: Sequence[int],
    folder: Path,
    reference: str,
    device: str,
    baselines: Sequence[Score] = (),
) -> list[Path]:
    """Write study.md, study.csv and pareto.png in `folder`, and print the recommendations.

    They are based on the first metric for which higher or lower is better. `baselines` are listed below the samplers,
    and the floor is drawn.
    """
    first = first_metric(points)
    floor = {score.metric: score for score in baselines if score.what == "floor"}
    titles = ("NFE up to", "use", "steps", "s/image", first, ALIKE)
    advice = [
        [
            str(budget),
            p.sampler,
            str(p.steps),
            number(p.seconds),
            value_text(p.scores[first]),
            ", ".join(others) or MISSING,
        ]
        for budget, (p, others) in recommended(points, budgets, first).items()
    ]
    page, table = tables(points, baselines, varied={}, fields=())
    parts = [
        f"# Samplers against {reference}",
        "All samples use the same noise, so differences are due to the samplers. The first table shows the best "
        f"sampler within each budget of network evaluations by {first}. {CAUTION}",
        *([FLOOR] if floor else []),
        markdown_table(titles, advice, right=(0, 2, 3, 4)),
        page,
        f"Seconds are on {device}, in batches. {protocol_text(points[0].scores[first])}.",
        "![score by evaluations and by seconds](pareto.png)",
    ]
    replace(folder / "study.md", "\n\n".join(parts) + "\n")
    replace(folder / "study.csv", table)
    style.save(pareto(points, first, floor.get(first)), folder / "pareto.png")
    print_advice(titles, advice, [], floor.get(first))
    return [folder / name for name in ("study.md", "study.csv", "pareto.png")]


def tables(
    points: Sequence[Point],
    baselines: Sequence[Score],
    varied: Mapping[str, Callable[[Point], str]],
    fields: Sequence[str],
) -> tuple[str, str]:
    """All points, and below them the baselines: as a Markdown table, and as the text of a CSV file.

    Args:
        varied: Title -> text of a point, for the columns with what a study varies besides samplers and steps.
        fields: The fields of `Point` that the CSV file has for it.
    """
    metrics = list(points[0].scores)
    by_kind: dict[str, dict[str, Score]] = {}
    for score in baselines:
        by_kind.setdefault(score.what, {})[score.metric] = score
    texts = [
        [p.sampler, *(of(p) for of in varied.values()), str(p.steps), str(p.nfe), number(p.seconds)] for p in points
    ]
    texts += [[what, *[MISSING] * (len(varied) + 3)] for what in by_kind]
    values = [[p.sampler, *(getattr(p, field) for field in fields), p.steps, p.nfe, p.seconds] for p in points]
    values += [[what, *[None] * (len(fields) + 3)] for what in by_kind]
    for text, value, scores in zip(texts, values, [*(p.scores for p in points), *by_kind.values()], strict=True):
        text += [value_text(scores.get(metric)) for metric in metrics]
        value += [scores[metric].value if metric in scores else None for metric in metrics]
    head = ("sampler", *varied, "steps", "NFE", "s/image", *metrics)
    numbers = [i for i, title in enumerate(head) if title not in ("sampler", "interval")]
    csv_head = ("sampler", *fields, "steps", "nfe", "seconds_per_image", *metrics)
    return markdown_table(head, texts, right=numbers), csv_text([csv_head, *values])


def print_advice(
    titles: Sequence[str], advice: Sequence[Sequence[str]], notes: Sequence[str], floor: Score | None
) -> None:
    """Print the table of what to use, the notes about it, and the floor of the metric that it is based on."""
    printed = Table(*titles, box=box.SIMPLE_HEAD, title="what to use", title_justify="left")
    for row in advice:
        printed.add_row(*row)
    console.print(printed)
    for note in notes:
        console.print(note)
    if floor is not None:
        console.print(f"floor ({count(floor.n or 0, 'real image')} against others): {floor.metric} {value_text(floor)}")


def first_metric(points: Sequence[Point]) -> str:
    """The metric that the advice is based on: the first for which higher or lower is better, or else the first."""
    metrics = list(points[0].scores)
    return next((metric for metric in metrics if ranks(points, metric)), metrics[0])


def best_of(points: Sequence[Point], metric: str) -> tuple[Point, list[Point]]:
    """The best point, and the others that are not shown to be worse."""
    best = min(points, key=lambda p: (badness(p, metric), p.nfe))
    return best, [p for p in points if p is not best and alike(p, best, metric)]


def recommended(points: Sequence[Point], budgets: Sequence[int], metric: str) -> dict[int, tuple[Point, list[str]]]:
    """NFE budget -> the best setting within it, and the others that are not shown to be worse.

    {} for a metric for which neither higher nor lower is better.
    """
    found: dict[int, tuple[Point, list[str]]] = {}
    if not ranks(points, metric):
        return found
    for budget in sorted(budgets):
        within = [p for p in points if p.nfe <= budget and metric in p.scores]
        if within:
            best, others = best_of(within, metric)
            found[budget] = (best, [f"{p.sampler} ({p.nfe})" for p in others])
    return found


def front(points: Sequence[Point], metric: str, cost: str) -> list[Point]:
    """The Pareto front, sorted by cost: the settings that no other beats in both score and `cost` (nfe or seconds).

    [] for a metric for which neither higher nor lower is better.
    """
    best = math.inf
    kept: list[Point] = []
    if not ranks(points, metric):
        return kept
    for p in sorted(points, key=lambda p: (getattr(p, cost), badness(p, metric))):
        if badness(p, metric) < best:
            best = badness(p, metric)
            kept.append(p)
    return kept


def ranks(points: Sequence[Point], metric: str) -> bool:
    """Whether higher or lower is better for the metric."""
    return points[0].scores[metric].higher_is_better is not None


def badness(point: Point, metric: str) -> float:
    """The value, negated if higher is better."""
    score = point.scores[metric]
    return -score.value if score.higher_is_better else score.value


def alike(a: Point, b: Point, metric: str) -> bool:
    """Whether the difference of two scores is within its 95% interval: |x − y| ≤ √(h_x² + h_y²), h half an interval.

    This holds for independent errors. Points share their noise, so that their errors are positively correlated and the
    interval is too wide. False if a score has no interval.
    """
    x, y = a.scores[metric], b.scores[metric]
    if x.interval is None or y.interval is None:
        return False
    return abs(x.value - y.value) <= math.hypot(half_width(x), half_width(y))


@style.styled
def pareto(points: Sequence[Point], metric: str, floor: Score | None = None) -> Figure:
    """Plot the score by NFE and by seconds per image, one line per sampler, with the Pareto front and the floor."""
    samplers = list(dict.fromkeys(p.sampler for p in points))
    height = max(3.0, 0.6 + 0.19 * (len(samplers) + 2))  # room for the legend
    figure = Figure(figsize=(style.TEXT_WIDTH + 1, height), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for ax, cost, label in zip(panels, ("nfe", "seconds"), ("network evaluations", "seconds per image"), strict=True):
        best = front(points, metric, cost)
        ax.step(
            [getattr(p, cost) for p in best], [p.scores[metric].value for p in best], where="post",
            color=style.LIGHT, linewidth=4, label="Pareto front", zorder=1,
        )  # fmt: skip
        draw_floor(ax, floor)
        for i, name in enumerate(samplers):
            line = sorted((p for p in points if p.sampler == name), key=lambda p: p.nfe)
            scores = [p.scores[metric] for p in line]
            values = [s.value for s in scores]
            ax.errorbar([getattr(p, cost) for p in line], values, yerr=bars(scores), capsize=2, label=name, **look(i))
        ax.set_xscale("log")
        style.plain_numbers(ax.xaxis)
        low, high = ax.get_xlim()
        if cost == "nfe":
            ax.set_xticks(apart({p.nfe for p in points}))
        else:
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high > 5 * low else MaxNLocator(4))
        ax.set_xlabel(label)
    panels[0].set_ylabel(metric)
    panels[1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def draw_floor(ax: Axes, floor: Score | None) -> None:
    """Draw the floor, if there is one, as a line with its interval."""
    if floor is not None:
        ax.axhline(floor.value, color=style.GREY, linewidth=1.0, linestyle="--", label="floor", zorder=1)
        if floor.interval:
            ax.axhspan(*floor.interval, color=style.LIGHT, alpha=0.35, linewidth=0, zorder=0)


def look(i: int) -> dict[str, Any]:
    """Colour and marker of line i, a combination that no other line has."""
    return {
        "color": COLOURS[i % 7], "marker": MARKERS[(i + i // 7) % 7], "markersize": 4, "linewidth": 1.2,
        "elinewidth": 0.8,
    }  # fmt: skip


def bars(scores: Sequence[Score]) -> list[list[float]]:
    """The lengths of the intervals below and above the values; 0 without an interval."""
    ends = [score.interval or (score.value, score.value) for score in scores]
    return [[abs(end[side] - score.value) for score, end in zip(scores, ends, strict=True)] for side in (0, 1)]


def apart(ticks: Iterable[int]) -> list[int]:
    """The largest tick, and those of the others whose labels do not overlap on a logarithmic axis."""
    kept: list[int] = []
    for tick in sorted(ticks, reverse=True):
        if not kept or tick < 0.8 * kept[-1]:
            kept.append(tick)
    return kept
