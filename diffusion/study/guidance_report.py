"""The report of a guidance study: the best scale for each sampler, and the trade-off of fidelity and diversity."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffusion.files import replace
from diffusion.metric.record import Score
from diffusion.report import annotations, style
from diffusion.report.formatting import MISSING, markdown_table, number, protocol_text, value_text
from diffusion.study.samplers_report import (
    ALIKE,
    CAUTION,
    FLOOR,
    Point,
    bars,
    best_of,
    draw_floor,
    first_metric,
    look,
    print_advice,
    ranks,
    tables,
)

FIDELITY = {"precision": "recall", "density": "coverage"}  # fidelity -> diversity; the first measured pair is used


class Advice(NamedTuple):
    """The recommendation for one sampler: the best setting, the one without guidance, and those as good as the best."""

    best: Point
    unguided: Point | None
    alike: list[Point]
    largest: bool  # whether no larger scale was tried


def write(
    points: Sequence[Point],
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
    first = first_metric(points)
    floor = {score.metric: score for score in baselines if score.what == "floor"}
    best = advised(points, first)
    titles = ("sampler", "use scale", "NFE", first, "without guidance", ALIKE)
    advice = [
        [
            *(a.best.sampler, a.best.guidance, str(a.best.nfe), value_text(a.best.scores[first])),
            value_text(a.unguided.scores[first] if a.unguided else None),
            ", ".join(p.guidance for p in a.alike) or MISSING,
        ]
        for a in best
    ]
    notes = [
        f"With {a.best.sampler} the best scale is the largest that was tried: try larger ones."
        for a in best
        if a.largest
    ]
    pair = measured_pair([*points[0].scores])
    seen = f" The figure also shows {pair[0]} (fidelity) against {pair[1]} (diversity)." if pair else ""
    varied = {"interval": lambda p: p.interval or MISSING, "scale": lambda p: f"{p.scale:g}"}
    page, table = tables(points, baselines, varied, fields=("low", "high", "scale"))
    parts = [
        f"# {guidance} against {reference}",
        "Scale 1 is no guidance. All samples use the same noise and, if there are classes, the same classes, so "
        f"differences are due to the guidance and the sampler. The first table shows the best scale by {first}. "
        f"{CAUTION}{seen}",
        *([FLOOR] if floor else []),
        markdown_table(titles, advice, right=(2, 3, 4)),
        *notes,
        page,
        "The interval is the range of noise levels sigma/alpha in which the guidance acts. Seconds are "
        f"on {device}, in batches. {protocol_text(points[0].scores[first])}.",
        "![score by scale, and fidelity against diversity](guidance.png)",
    ]
    replace(folder / "guidance.md", "\n\n".join(parts) + "\n")
    replace(folder / "guidance.csv", table)
    style.save(trade(points, first, pair, floor), folder / "guidance.png")
    print_advice(titles, advice, notes, floor.get(first))
    return [folder / name for name in ("guidance.md", "guidance.csv", "guidance.png")]


def advised(points: Sequence[Point], metric: str) -> list[Advice]:
    """The best setting for each sampler, and the others that are not shown to be worse.

    [] for a metric for which neither higher nor lower is better.
    """
    found: list[Advice] = []
    if not ranks(points, metric):
        return found
    for name in dict.fromkeys(p.sampler for p in points):
        of_sampler = [p for p in points if p.sampler == name and metric in p.scores]
        if of_sampler:
            best, alike = best_of(of_sampler, metric)
            unguided = next((p for p in of_sampler if p.scale == 1), None)
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


def lines_of(points: Sequence[Point]) -> dict[str, list[Point]]:
    """Line name -> the points of a sampler and an interval, sorted by scale, including the point without guidance."""
    found: dict[str, list[Point]] = {}
    for sampler in dict.fromkeys(p.sampler for p in points):
        of_sampler = [p for p in points if p.sampler == sampler]
        unguided = [p for p in of_sampler if p.scale == 1]
        intervals = dict.fromkeys(p.interval for p in of_sampler if p.scale != 1) or {"": None}
        for interval in intervals:
            name = sampler if interval in ("", "everywhere") else f"{sampler}, {interval}"
            line = unguided + [p for p in of_sampler if p.scale != 1 and p.interval == interval]
            found[name] = sorted(line, key=lambda p: p.scale)
    return found


@style.styled
def trade(points: Sequence[Point], metric: str, pair: tuple[str, str] | None, floor: Mapping[str, Score]) -> Figure:
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
    points: Sequence[Point],
    lines: Mapping[str, Sequence[Point]],
    metric: str,
    floor: Score | None,
) -> None:
    """Plot the score by scale, with intervals."""
    draw_floor(ax, floor)
    for i, (name, line) in enumerate(lines.items()):
        kept = [p for p in line if metric in p.scores]
        scores = [p.scores[metric] for p in kept]
        ax.errorbar(
            [p.scale for p in kept], [s.value for s in scores], yerr=bars(scores), capsize=2, label=name, **look(i)
        )
    best = [a.best for a in advised(points, metric)]
    if best:
        ax.plot(
            [p.scale for p in best], [p.scores[metric].value for p in best], linestyle="", marker="o",
            markersize=10, markerfacecolor="none", markeredgecolor=style.INK, markeredgewidth=0.8, label="best",
        )  # fmt: skip
    ax.set_xticks(spread([p.scale for p in points]))
    ax.xaxis.set_major_formatter(style.THOUSANDS)
    ax.set_xlabel("scale (1: no guidance)")
    ax.set_ylabel(metric)


def against(
    ax: Axes, lines: Mapping[str, Sequence[Point]], pair: tuple[str, str], floor: Mapping[str, Score]
) -> list[annotations.Label]:
    """Plot fidelity against diversity along the scales, with intervals; returns the labels of the points."""
    fidelity, diversity = pair
    found: dict[tuple[float, float, str], annotations.Label] = {}
    for i, line in enumerate(lines.values()):
        kept = [p for p in line if {*pair} <= p.scores.keys()]
        across, up = ([p.scores[m] for p in kept] for m in (diversity, fidelity))
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
