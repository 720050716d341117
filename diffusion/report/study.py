"""The report of a sampler study: scores against network evaluations and seconds, and what to use for a budget."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from rich import box
from rich.table import Table

from diffusion.console import console
from diffusion.files import replace
from diffusion.metric.record import Score
from diffusion.report import style
from diffusion.report.formatting import csv_text, markdown_table, protocol_text, value_text

FLOOR = (
    "The floor is what real images score against real ones at this n: chance alone. A difference between samplers that "
    "is smaller than its interval is no finding."
)


class Point(NamedTuple):
    """One setting: a sampler, its steps, network evaluations and seconds an image, and its scores by metric."""

    sampler: str
    steps: int
    nfe: int
    seconds: float
    scores: Mapping[str, Score]


def write(
    points: Sequence[Point],
    budgets: Sequence[int],
    folder: Path,
    reference: str,
    device: str,
    baselines: Sequence[Score] = (),
) -> list[Path]:
    """study.md, study.csv and pareto.png in `folder`; prints what to use.

    The first metric of which one end is better decides. `baselines` are shown below the samplers, and the floor in
    the plot.
    """
    metrics = list(points[0].scores)
    first = next((m for m in metrics if points[0].scores[m].higher_is_better is not None), metrics[0])
    chosen = recommended(points, budgets, first)
    head = ("sampler", "steps", "NFE", "s/image", *metrics)
    rows = [
        (p.sampler, str(p.steps), str(p.nfe), f"{p.seconds:.3g}", *(value_text(p.scores.get(m)) for m in metrics))
        for p in points
    ]
    beside: dict[str, dict[str, Score]] = {}
    for score in baselines:
        beside.setdefault(score.what, {})[score.metric] = score
    rows += [(what, "—", "—", "—", *(value_text(own.get(m)) for m in metrics)) for what, own in beside.items()]
    advice = [
        (f"{budget}", p.sampler, str(p.steps), f"{p.seconds:.3g}", value_text(p.scores[first]), ", ".join(alike) or "—")
        for budget, (p, alike) in chosen.items()
    ]  # fmt: skip
    titles = ("NFE up to", "use", "steps", "s/image", first, "as good, within the interval")
    parts = [
        f"# Samplers against {reference}",
        "All from the same noise, so that differences are the samplers'. The best within each budget of network "
        f"evaluations by {first}; settings whose interval overlaps its interval can't be distinguished from it.",
        *([FLOOR] if "floor" in beside else []),
        markdown_table(titles, advice, right=(0, 2, 3, 4)),
        markdown_table(head, rows, right=range(1, len(head))),
        f"Seconds on {device}, in batches. " + protocol_text(points[0].scores[first]) + ".",
        "![score against evaluations and seconds](pareto.png)",
    ]
    replace(folder / "study.md", "\n\n".join(parts) + "\n")
    lines: list[list[Any]] = [["sampler", "steps", "nfe", "seconds_per_image", *metrics]]
    for p in points:
        values = (p.scores[m].value if m in p.scores else None for m in metrics)
        lines.append([p.sampler, p.steps, p.nfe, p.seconds, *values])
    for what, own in beside.items():
        lines.append([what, None, None, None, *(own[m].value if m in own else None for m in metrics)])
    replace(folder / "study.csv", csv_text(lines))
    floor = beside.get("floor", {}).get(first)
    style.save(pareto(points, first, floor), folder / "pareto.png")
    printed = Table(box=box.SIMPLE_HEAD, title="what to use", title_justify="left")
    for title in titles:
        printed.add_column(title)
    for line in advice:
        printed.add_row(*line)
    console.print(printed)
    if floor is not None:
        console.print(f"floor (real images against real ones, at this n): {first} {value_text(floor)}")
    return [folder / name for name in ("study.md", "study.csv", "pareto.png")]


def recommended(points: Sequence[Point], budgets: Sequence[int], metric: str) -> dict[int, tuple[Point, list[str]]]:
    """NFE budget -> the best setting within it, and those within it whose interval overlaps that one's.

    {} for a metric of which neither end is better.
    """
    sign, found = _sign(points, metric), {}
    if not sign:
        return {}
    for budget in sorted(budgets):
        within = [p for p in points if p.nfe <= budget and metric in p.scores]
        if not within:
            continue
        best = min(within, key=lambda p: (sign * _value(p, metric), p.nfe))
        alike = [f"{p.sampler} ({p.nfe})" for p in within if p is not best and _overlap(p, best, metric)]
        found[budget] = (best, alike)
    return found


def front(points: Sequence[Point], metric: str, cost: str) -> list[Point]:
    """The settings that no other beats in both score and `cost` (nfe or seconds), by cost; [] as above."""
    sign, best, kept = _sign(points, metric), math.inf, []
    if not sign:
        return []
    for p in sorted(points, key=lambda p: (getattr(p, cost), sign * _value(p, metric))):
        if sign * _value(p, metric) < best:
            best = sign * _value(p, metric)
            kept.append(p)
    return kept


def _sign(points: Sequence[Point], metric: str) -> int:
    """1 where lower is better, −1 where higher is, 0 where neither."""
    higher = points[0].scores[metric].higher_is_better
    return 0 if higher is None else -1 if higher else 1


def _overlap(a: Point, b: Point, metric: str) -> bool:
    x, y = a.scores[metric], b.scores[metric]
    if x.low is None or y.low is None or x.high is None or y.high is None:
        return False
    return x.low <= y.high and y.low <= x.high


def _value(point: Point, metric: str) -> float:
    return point.scores[metric].value


def _reach(point: Point, metric: str, end: str) -> float:
    """How far from the value its interval reaches; 0 where there is none."""
    bound = getattr(point.scores[metric], end)
    return 0.0 if bound is None else abs(bound - _value(point, metric))


@style.styled
def pareto(points: Sequence[Point], metric: str, floor: Score | None = None) -> Figure:
    """The score against NFE and against seconds an image, a line per sampler; the Pareto front and the floor behind."""
    samplers = list(dict.fromkeys(p.sampler for p in points))
    height = max(3.0, 0.6 + 0.19 * (len(samplers) + 2))  # the legend's
    figure = Figure(figsize=(style.TEXT_WIDTH + 1, height), layout="constrained")
    colours = [style.BLUE, style.VERMILION, style.GREEN, style.ORANGE, style.PURPLE, style.GREY, style.INK]
    markers = "os^DvPX"
    panels = figure.subplots(1, 2, sharey=True)
    for ax, cost, label in zip(panels, ("nfe", "seconds"), ("network evaluations", "seconds an image"), strict=True):
        best = front(points, metric, cost)
        ax.step(
            [getattr(p, cost) for p in best], [_value(p, metric) for p in best], where="post",
            color=style.LIGHT, linewidth=4, label="Pareto front", zorder=1,
        )  # fmt: skip
        if floor is not None:
            ax.axhline(floor.value, color=style.GREY, linewidth=1.0, linestyle="--", label="floor", zorder=1)
            if floor.low is not None and floor.high is not None:
                ax.axhspan(floor.low, floor.high, color=style.LIGHT, alpha=0.35, linewidth=0, zorder=0)
        for i, name in enumerate(samplers):
            own = sorted((p for p in points if p.sampler == name), key=lambda p: p.nfe)
            y = [_value(p, metric) for p in own]
            bars = [[_reach(p, metric, end) for p in own] for end in ("low", "high")]
            ax.errorbar(
                [getattr(p, cost) for p in own], y, yerr=bars, color=colours[i % 7], marker=markers[(i + i // 7) % 7],
                markersize=4, linewidth=1.2, elinewidth=0.8, capsize=2, label=name,
            )  # fmt: skip
        ax.set_xscale("log")
        _plain(ax, _apart({p.nfe for p in points}) if cost == "nfe" else None)
        ax.set_xlabel(label)
    panels[0].set_ylabel(metric)
    panels[1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _apart(ticks: Iterable[int]) -> list[int]:
    """The largest of `ticks` that stand apart on a logarithmic axis, so that their numbers don't overlap."""
    kept: list[int] = []
    for tick in sorted(ticks, reverse=True):
        if not kept or tick < 0.8 * kept[-1]:
            kept.append(tick)
    return kept


def _plain(ax: Axes, ticks: Sequence[float] | None) -> None:
    """Plain numbers on a logarithmic x axis: `ticks`, or 1, 2, 5, 10, …"""
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    if ticks is None:
        low, high = ax.get_xlim()
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high > 5 * low else MaxNLocator(4))
    else:
        ax.set_xticks(ticks)
