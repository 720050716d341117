"""The report of a guidance study: the best scale for each sampler, and the trade-off of fidelity and diversity."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from diffusion.console import console
from diffusion.files import replace
from diffusion.metric.record import Score
from diffusion.report import annotations, style
from diffusion.report.formatting import MISSING, csv_text, markdown_table, number, protocol_text, value_text
from diffusion.study.samplers_report import FLOOR, Point, badness, bars, look, overlap, ranks

FILES = ("guidance.md", "guidance.csv", "guidance.png")
FIDELITY = {"precision": "recall", "density": "coverage"}  # fidelity -> diversity; the first measured pair is used


class GuidedPoint(NamedTuple):
    """One setting: a sampler with its scores, and the guidance's scale and interval (low, high]; None: unbounded."""

    point: Point
    scale: float
    low: float | None
    high: float | None

    @property
    def interval(self) -> str:
        """The interval as text: `(0.19, 1.61]`, `everywhere`, or nothing without guidance."""
        return "" if self.scale == 1 else interval_text(self.low, self.high)

    @property
    def name(self) -> str:
        """The scale and, if limited, its interval: `2`, or `2 in (0.19, 1.61]`."""
        limited = self.scale != 1 and (self.low, self.high) != (None, None)
        return f"{self.scale:g} in {self.interval}" if limited else f"{self.scale:g}"


class Advice(NamedTuple):
    """The recommendation for one sampler: the best setting, the one without guidance, and those as good as the best."""

    best: GuidedPoint
    unguided: GuidedPoint | None
    alike: list[GuidedPoint]
    largest: bool  # whether no larger scale was tried


def write(
    points: Sequence[GuidedPoint],
    guidance: str,
    folder: Path,
    reference: str,
    device: str,
    baselines: Sequence[Score] = (),
) -> list[Path]:
    """Write guidance.md, guidance.csv and guidance.png in `folder`, and print the recommendations.

    They are based on the first metric for which higher or lower is better. `guidance` is the guidance's name.
    `baselines` are listed below the settings, and the floor is drawn.
    """
    metrics = list(points[0].point.scores)
    first = next((m for m in metrics if ranks([points[0].point], m)), metrics[0])
    by_kind: dict[str, dict[str, Score]] = {}
    for score in baselines:
        by_kind.setdefault(score.what, {})[score.metric] = score
    floor = by_kind.get("floor", {})
    advice = advised(points, first)
    titles = ("sampler", "use scale", "NFE", first, "without guidance", "as good, within the interval")
    lines = [
        (
            *(a.best.point.sampler, a.best.name, str(a.best.point.nfe), value_text(a.best.point.scores[first])),
            value_text(a.unguided.point.scores[first] if a.unguided else None),
            ", ".join(each.name for each in a.alike) or MISSING,
        )
        for a in advice
    ]
    notes = [
        f"With {a.best.point.sampler} the best scale is the largest that was tried: try larger ones."
        for a in advice
        if a.largest
    ]
    pair = measured_pair(metrics)
    seen = f" The figure also shows {pair[0]} (fidelity) against {pair[1]} (diversity)." if pair else ""
    heads = ("sampler", "interval", "scale", "steps", "NFE", "s/image", *metrics)
    rows = [
        [
            *(p.point.sampler, p.interval or MISSING, f"{p.scale:g}", str(p.point.steps), str(p.point.nfe)),
            *(number(p.point.seconds), *(value_text(p.point.scores.get(m)) for m in metrics)),
        ]
        for p in points
    ]
    rows += [[what, *5 * [MISSING], *(value_text(s.get(m)) for m in metrics)] for what, s in by_kind.items()]
    parts = [
        f"# {guidance} against {reference}",
        "Scale 1 is no guidance. All samples use the same noise and, if there are classes, the same classes, so "
        f"differences are due to the guidance and the sampler. The first table shows the best scale by {first}; scales "
        f"whose interval overlaps that of the best can't be distinguished from it.{seen}",
        *([FLOOR] if floor else []),
        markdown_table(titles, lines, right=(2, 3, 4)),
        *notes,
        markdown_table(heads, rows, right=range(2, len(heads))),
        "The interval is the range of noise levels sigma/alpha in which the guidance acts. Seconds are "
        f"on {device}, in batches. {protocol_text(points[0].point.scores[first])}.",
        "![score by scale, and fidelity against diversity](guidance.png)",
    ]
    replace(folder / "guidance.md", "\n\n".join(parts) + "\n")
    values: list[list[Any]] = [
        [
            *(p.point.sampler, p.low, p.high, p.scale, p.point.steps, p.point.nfe, p.point.seconds),
            *(p.point.scores[m].value if m in p.point.scores else None for m in metrics),
        ]
        for p in points
    ]
    values += [[what, *6 * [None], *(s[m].value if m in s else None for m in metrics)] for what, s in by_kind.items()]
    head = ("sampler", "low", "high", "scale", "steps", "nfe", "seconds_per_image", *metrics)
    replace(folder / "guidance.csv", csv_text([head, *values]))
    style.save(trade(points, first, pair, floor), folder / "guidance.png")
    printed = Table(*titles, box=box.SIMPLE_HEAD, title="what to use", title_justify="left")
    for line in lines:
        printed.add_row(*line)
    console.print(printed)
    for note in notes:
        console.print(note)
    if first in floor:
        console.print(f"floor (real images against real ones, at this n): {first} {value_text(floor[first])}")
    return [folder / name for name in FILES]


def advised(points: Sequence[GuidedPoint], metric: str) -> list[Advice]:
    """The best setting for each sampler, and the others whose interval overlaps the best one's.

    [] for a metric for which neither higher nor lower is better.
    """
    found: list[Advice] = []
    if not ranks([points[0].point], metric):
        return found
    for name in dict.fromkeys(p.point.sampler for p in points):
        of_sampler = [p for p in points if p.point.sampler == name and metric in p.point.scores]
        best = min(of_sampler, key=lambda p: (badness(p.point, metric), p.point.nfe), default=None)
        if best is not None:
            unguided = next((p for p in of_sampler if p.scale == 1), None)
            alike = [p for p in of_sampler if p is not best and overlap(p.point, best.point, metric)]
            largest = best.scale > 1 and best.scale == max(p.scale for p in points)
            found.append(Advice(best, unguided, alike, largest))
    return found


def measured_pair(metrics: Sequence[str]) -> tuple[str, str] | None:
    """The metrics of fidelity and diversity: precision and recall, or else density and coverage."""
    for pair in FIDELITY.items():
        found = [next((m for m in metrics if m.startswith(kind)), None) for kind in pair]
        if found[0] is not None and found[1] is not None:
            return found[0], found[1]
    return None


def interval_text(low: float | None, high: float | None) -> str:
    """An interval of noise levels: `(0.19, 1.61]`, `(0, 1.61]`, `above 0.19`, `everywhere`."""
    if high is None:
        return "everywhere" if low is None else f"above {number(low)}"
    return f"({number(low or 0)}, {number(high)}]"


def lines_of(points: Sequence[GuidedPoint]) -> dict[str, list[GuidedPoint]]:
    """Line name -> the points of a sampler and an interval, sorted by scale, including the point without guidance."""
    found: dict[str, list[GuidedPoint]] = {}
    for sampler in dict.fromkeys(p.point.sampler for p in points):
        of_sampler = [p for p in points if p.point.sampler == sampler]
        unguided = [p for p in of_sampler if p.scale == 1]
        intervals = dict.fromkeys(p.interval for p in of_sampler if p.scale != 1) or {"": None}
        for interval in intervals:
            name = sampler if interval in ("", "everywhere") else f"{sampler}, {interval}"
            line = unguided + [p for p in of_sampler if p.scale != 1 and p.interval == interval]
            found[name] = sorted(line, key=lambda p: p.scale)
    return found


@style.styled
def trade(
    points: Sequence[GuidedPoint], metric: str, pair: tuple[str, str] | None, floor: Mapping[str, Score]
) -> Figure:
    """Plot the score by scale, one line per sampler and interval, with the best per sampler ringed, and `pair`, if any.

    `pair` is a metric of fidelity (vertical axis) and one of diversity (horizontal axis); its points are labelled with
    the scale. If the `floor` is far from all points there, its position is given as text instead.
    """
    lines = lines_of(points)
    columns = max(1, min(3, 84 // (8 + max(map(len, lines)))))
    rows = -(-(len(lines) + 2) // columns)  # of the legend
    figure = Figure(figsize=(style.TEXT_WIDTH + 1, 3.1 + 0.19 * rows), layout="constrained")
    axes = figure.subplots(1, 2 if pair else 1, squeeze=False, gridspec_kw={"wspace": 0.08})[0]
    by_scale(axes[0], points, lines, metric, floor.get(metric))
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=columns)
    if pair:
        placed = against(axes[1], lines, pair, floor)
        annotations.place(figure, axes[1], placed)
    return figure


def by_scale(
    ax: Axes,
    points: Sequence[GuidedPoint],
    lines: Mapping[str, Sequence[GuidedPoint]],
    metric: str,
    floor: Score | None,
) -> None:
    """Plot the score by scale, with intervals."""
    if floor is not None:
        ax.axhline(floor.value, color=style.GREY, linewidth=1.0, linestyle="--", label="floor", zorder=1)
        if floor.interval:
            ax.axhspan(*floor.interval, color=style.LIGHT, alpha=0.35, linewidth=0, zorder=0)
    for i, (name, line) in enumerate(lines.items()):
        kept = [p for p in line if metric in p.point.scores]
        scores = [p.point.scores[metric] for p in kept]
        ax.errorbar(
            [p.scale for p in kept], [s.value for s in scores], yerr=bars(scores), capsize=2, label=name, **look(i)
        )
    best = [a.best for a in advised(points, metric)]
    if best:
        ax.plot(
            [p.scale for p in best], [p.point.scores[metric].value for p in best], linestyle="", marker="o",
            markersize=10, markerfacecolor="none", markeredgecolor=style.INK, markeredgewidth=0.8, label="best",
        )  # fmt: skip
    ax.set_xticks(spread([p.scale for p in points]))
    ax.xaxis.set_major_formatter(style.THOUSANDS)
    ax.set_xlabel("scale (1: no guidance)")
    ax.set_ylabel(metric)


def against(
    ax: Axes, lines: Mapping[str, Sequence[GuidedPoint]], pair: tuple[str, str], floor: Mapping[str, Score]
) -> list[annotations.Label]:
    """Plot fidelity against diversity along the scales, with intervals; returns the labels of the points."""
    fidelity, diversity = pair
    found: dict[tuple[float, float, str], annotations.Label] = {}
    for i, line in enumerate(lines.values()):
        kept = [p for p in line if {*pair} <= p.point.scores.keys()]
        across, up = ([p.point.scores[m] for p in kept] for m in (diversity, fidelity))
        x, y = [s.value for s in across], [s.value for s in up]
        ax.errorbar(x, y, xerr=bars(across), yerr=bars(up), alpha=0.3, **{**look(i), "linestyle": "", "marker": ""})
        ax.plot(x, y, **{key: value for key, value in look(i).items() if key != "elinewidth"})
        for j, p in enumerate(kept):
            label = annotations.Label(x[j], y[j], f"{p.scale:g}", look(i)["color"])
            found.setdefault((label.x, label.y, label.text), label)
    if {*pair} <= floor.keys():
        real = annotations.Label(floor[diversity].value, floor[fidelity].value, "floor", style.GREY)
        if near(real.x, ax.get_xlim()) and near(real.y, ax.get_ylim()):
            ax.plot(real.x, real.y, color=style.GREY, marker="*", markersize=8, linestyle="")
            found[real.x, real.y, real.text] = real
        else:
            text = f"floor: {diversity} {number(real.x)}, {fidelity} {number(real.y)}"
            ax.set_title(text, loc="right", fontsize=8, color=style.GREY, pad=2)
    ax.set_xlabel(f"{diversity} (diversity)")
    ax.set_ylabel(f"{fidelity} (fidelity)")
    return list(found.values())


def spread(ticks: Sequence[float]) -> list[float]:
    """The smallest tick, and those of the others whose labels do not overlap on a linear axis."""
    kept: list[float] = []
    for tick in sorted({*ticks}):
        if not kept or tick - kept[-1] >= 0.06 * (max(ticks) - min(ticks)):
            kept.append(tick)
    return kept


def near(value: float, ends: tuple[float, float]) -> bool:
    """Whether the value is within the axis, or near enough to be drawn without squeezing the rest."""
    room = ends[1] - ends[0]
    return ends[0] - room <= value <= ends[1] + room
