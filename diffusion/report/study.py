"""The report of a study of samplers or of guidance: scores by cost or by scale, and what to use.

The advice is based on the first metric for which higher or lower is better.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, NullLocator
from torch import Tensor

from diffusion.console import console, count
from diffusion.files import replace
from diffusion.metric.record import Score
from diffusion.report import pictures, style
from diffusion.report.blocks import Block, Cell, Chart, Charts, Section, Table, markdown, paragraph, save_charts, tag
from diffusion.report.formatting import (
    BASELINES,
    MISSING,
    csv_text,
    half_width,
    number,
    protocol_text,
    value_text,
)
from diffusion.report.images import grid, opened, save_png, tiles
from diffusion.report.page import write_page
from diffusion.report.scores import print_table
from diffusion.report.style import readable
from diffusion.runs.folder import Run

IMAGES = 8  # samples of a setting in the page
VARIED = (  # within one study
    "words", "sampler", "guidance", "nfe", "seconds_per_image", "device", "test_evaluation", "checkpoint",
)  # fmt: skip
FIDELITY = {"precision": "recall", "density": "coverage"}  # fidelity -> diversity; the first measured pair is used
COSTS = {"nfe": "network evaluations", "seconds": "seconds per image", "scale": "scale (1: no guidance)"}
HUES = (style.BLUE, style.VERMILION, style.GREEN, style.ORANGE, style.PURPLE, style.GREY, style.INK)
LOOKS = [{"color": HUES[i], "marker": "os^DvPX"[(i + k) % 7]} for k in range(7) for i in range(7)]  # all different


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
    picture: Path | None = None

    @property
    def interval(self) -> str:
        """The interval as text: `(0.19, 1.61]`, `everywhere`, or nothing without guidance."""
        return "" if self.scale == 1 else interval_text(self.low, self.high)

    @property
    def name(self) -> str:
        """The sampler and, with guidance, its scale and interval: `ddim, scale 2 in (0.19, 1.61]`."""
        limited = "" if self.interval in ("", "everywhere") else f" in {self.interval}"
        return self.sampler if self.scale == 1 else f"{self.sampler}, scale {self.scale:g}{limited}"


@dataclass(frozen=True)
class Study:
    """The points of a study and its baselines; what was studied (samplers, or a guidance), and on what."""

    points: Sequence[Point]
    baselines: Sequence[Score]
    guidance: str | None  # the guidance whose scales are studied, or None for samplers
    reference: str  # the split
    device: str | None = None  # None: not known
    budgets: Sequence[int] = ()  # of network evaluations

    @property
    def metrics(self) -> list[str]:
        return list(dict.fromkeys(metric for point in self.points for metric in point.scores))

    @property
    def first(self) -> str:
        """The metric that the advice is based on: the first for which higher or lower is better, or else the first."""
        return next((metric for metric in self.metrics if ranks(self.points, metric)), self.metrics[0])

    @property
    def by_role(self) -> dict[str, dict[str, Score]]:
        """What was scored, such as `floor` -> metric -> the baseline's score."""
        found: dict[str, dict[str, Score]] = {}
        for score in self.baselines:
            found.setdefault(score.what, {})[score.metric] = score
        return found

    @property
    def floor(self) -> dict[str, Score]:
        return self.by_role.get("floor", {})


def interval_text(low: float | None, high: float | None) -> str:
    """An interval of noise levels: `(0.19, 1.61]`, `(0, 1.61]`, `above 0.19`, `everywhere`."""
    if high is None:
        return "everywhere" if low is None else f"above {number(low)}"
    return f"({number(low or 0)}, {number(high)}]"


# ------------------------------------------------------------------------------------------------ from scores.json


def is_study(run: Run) -> bool:
    """Whether the folder contains scores by sampling cost (NFE)."""
    return any("nfe" in score.source for score in run.scores)


def latest(scores: Sequence[Score]) -> list[Score]:
    """The scores of settings by the latest of the studies in a folder.

    They have the model, the seed, the program, n and the reference of the last score, and each has the protocol of the
    last score of its metric.
    """
    settings = [score for score in scores if "nfe" in score.source]
    protocols = {score.metric: score.protocol_key for score in settings}
    return [s for s in settings if _study(s) == _study(settings[-1]) and s.protocol_key == protocols[s.metric]]


def _study(score: Score) -> tuple[Any, ...]:
    """What the scores of one study have in common."""
    source = {key: value for key, value in score.source.items() if key not in VARIED}
    return score.code, score.n, score.reference, source


def save_picture(images: Tensor, source: Mapping[str, Any], folder: Path) -> Path:
    """Save the first samples of a setting, uint8 (n, 3, H, W), for the page, and return the path of the file."""
    return save_png(grid(images[:IMAGES], IMAGES), picture_file(folder, source))


def picture_file(folder: Path, source: Mapping[str, Any]) -> Path:
    """The path of the picture with the samples for a score's source."""
    made = json.dumps([source.get("sampler"), source.get("guidance")], sort_keys=True, default=str)
    return folder / "samples" / f"{hashlib.sha256(made.encode()).hexdigest()[:12]}.png"


def study_of(run: Run) -> Study:
    """The latest study in a folder, from its scores."""
    shown = latest(run.scores)
    ended = [i for i, score in enumerate(run.scores, start=1) if "nfe" in score.source and score not in shown]
    later = run.scores[max(ended, default=0) :]  # those written after the last earlier study
    baselines = {(score.what, score.metric): score for score in later if "nfe" not in score.source}
    points: dict[Path, Point] = {}
    for score in shown:
        source, file = score.source, picture_file(run.folder, score.source)
        guided: Mapping[str, Any] = source.get("guidance") or {}
        interval = (guided.get("scale") or 1.0, guided.get("low"), guided.get("high"))
        cost = (source["sampler"].get("steps") or 0, source["nfe"], source.get("seconds_per_image") or math.nan)
        points.setdefault(file, Point(source["words"], *cost, {}, *interval, file)).scores[score.metric] = score  # type: ignore[index]
    guidances = {str(score.source["guidance"].get("name")) for score in shown if score.source.get("guidance")}
    guidance = guidances.pop() if len({point.scale for point in points.values()}) > 1 and guidances else None
    reference = shown[-1].reference.split if shown[-1].reference else "images"
    device, budgets = shown[-1].source.get("device"), run.config.get("nfe") or ()
    return Study([*points.values()], [*baselines.values()], guidance, reference, device, budgets)


# ------------------------------------------------------------------------------------------------------ the report


def write(study: Study, folder: Path) -> list[Path]:
    """Write the Markdown, CSV and PNG files and the page of a study in `folder`, and print the advice."""
    name, sections = "guidance" if study.guidance else "study", study_sections(study)
    replace(folder / f"{name}.md", markdown(title_of(study), sections))
    replace(folder / f"{name}.csv", csv_of(study))
    advice, *notes = advice_of(study)
    print_table(advice)
    for note in notes:
        console.print(note)
    if (floor := study.floor.get(study.first)) is not None:
        console.print(f"floor ({count(floor.n or 0, 'real image')} against others): {floor.metric} {value_text(floor)}")
    page = write_page(folder, title_of(study), sections)
    return [folder / f"{name}.md", folder / f"{name}.csv", *save_charts(sections, folder), page]


def title_of(study: Study) -> str:
    """The title of the report."""
    return f"{study.guidance or 'Samplers'} against {study.reference}"


def study_sections(study: Study) -> list[Section]:
    """The sections of the report: the advice, the charts, all settings."""
    if not study.points:
        return [Section("", lambda: [paragraph("No settings have been scored yet.")])]
    return [
        Section("", lambda: introduction(study)),
        Section("Scores", lambda: [Charts([*charts(study)])]),
        Section("Settings", lambda: settings(study)),
    ]


def introduction(study: Study) -> list[Block]:
    """What the study compares, and the advice."""
    per = "for each sampler" if study.guidance else "within each budget of network evaluations"
    words = (
        f"All samples use the same noise and the same classes, so differences are due to the settings. The table shows "
        f"the best setting {per} by {study.first}. The last column lists the settings whose difference from the best "
        "is within its 95% interval; since all settings share their noise, the real interval is narrower, and some of "
        "them may be worse."
    )
    advice, *notes = advice_of(study)
    return [paragraph(words + " Scale 1 is no guidance." * bool(study.guidance)), advice, *map(paragraph, notes)]


def advice_of(study: Study) -> tuple[Any, ...]:
    """The table of the best setting of each sampler or within each budget, and notes."""
    first, notes, rows = study.first, [], []
    points = [p for p in study.points if first in p.scores and ranks(study.points, first)]
    groups: dict[str, list[Point]] = {}
    if study.guidance:
        for p in points:
            groups.setdefault(p.sampler, []).append(p)
    else:
        for budget in sorted(study.budgets or {p.nfe for p in points}):
            groups[str(budget)] = [p for p in points if p.nfe <= budget]
    for name, within in groups.items():
        if within:
            best, others = best_of(within, first)
            cost = [str(best.steps), str(best.nfe), number(best.seconds)]
            same = ", ".join(f"{p.name} ({p.nfe})" for p in others) or MISSING
            rows.append([name, best.name, *cost, value_text(best.scores[first]), same])
            if study.guidance and 1 < best.scale == max(p.scale for p in points):
                notes.append(f"With {name} the best scale is the largest that was tried: try larger ones.")
    group = "sampler" if study.guidance else "NFE up to"
    head = [group, "use", "steps", "NFE", "s/image", first, "not shown to be worse"]
    return Table(head, rows, "What to use", (2, 3, 4, 5)), *notes


def charts(study: Study) -> Iterable[Chart]:
    """The charts of all metrics; that of the first one is a file, too."""
    words = "Bars are 95% intervals."
    if study.floor:
        words += (
            " The dashed line is the floor, the score of as many real images as samples (or of all, if there are "
            "fewer) against others: chance alone."
        )
    axes, file = (["scale"], "guidance.png") if study.guidance else (["nfe", "seconds"], "pareto.png")
    yield Chart(words, partial(by_cost, study, study.first, axes), file)
    for metric in study.metrics:
        if metric != study.first:
            yield Chart(metric, partial(by_cost, study, metric, axes[:1]))
    if study.guidance and (pair := measured_pair(study.metrics)):
        yield Chart("Fidelity against diversity, labelled by scale.", partial(against, study, pair), "fidelity.png")


def settings(study: Study) -> tuple[Table, Block]:
    """All settings and the baselines, in the page with samples."""
    head, rows = ["sampler", *["interval", "scale"] * bool(study.guidance), "steps", "NFE", "s/image"], list[Any]()
    for p in study.points:
        picture = None
        if p.picture is not None and p.picture.is_file():
            images = pictures.sheet(tiles(opened(p.picture))[:IMAGES], IMAGES)
            picture = tag("div", pictures.shown(images, f"Samples of {p.sampler}", 24 * IMAGES / images.width))
        guidance = [Cell(p.interval or MISSING), Cell(f"{p.scale:g}", p.scale)] * bool(study.guidance)
        cost = [Cell(str(p.steps), p.steps), Cell(str(p.nfe), p.nfe), Cell(number(p.seconds), p.seconds)]
        rows.append([Cell(p.sampler, picture=picture), *guidance, *cost, *cells(study, p.scores)])
    for what, found in study.by_role.items():
        rows.append([BASELINES.get(what, what), *[MISSING] * (len(head) - 1), *cells(study, found)])
    words = "The interval is the range of noise levels sigma/alpha in which the guidance acts. " * bool(study.guidance)
    device = f" are on {study.device}, in batches" if study.device else " are in batches"
    protocol = protocol_text(next(p.scores[study.first] for p in study.points if study.first in p.scores))
    numbers = range(2 if study.guidance else 1, len(head) + len(study.metrics))
    table = Table([*head, *study.metrics], rows, "Settings", numbers)
    return table, paragraph(f"{words}Seconds{device}. {protocol}.")


def csv_of(study: Study) -> str:
    """All settings and the baselines as the text of a CSV file."""
    fields = ("sampler", *(("low", "high", "scale") if study.guidance else ()), "steps", "nfe", "seconds")
    rows: list[Any] = [([getattr(p, field) for field in fields], p.scores) for p in study.points]
    rows += [([what, *[None] * (len(fields) - 1)], found) for what, found in study.by_role.items()]
    lines = [[*cost, *(found[m].value if m in found else None for m in study.metrics)] for cost, found in rows]
    return csv_text([[*fields[:-1], "seconds_per_image", *study.metrics], *lines])


def cells(study: Study, scores: Mapping[str, Score]) -> list[Cell]:
    """The scores of a setting in a table: a cell for each metric of the study."""
    found = [scores.get(metric) for metric in study.metrics]
    return [Cell(value_text(score), score.value if score else None) for score in found]


# ------------------------------------------------------------------------------------------------------ comparing


def ranks(points: Sequence[Point], metric: str) -> bool:
    """Whether higher or lower is better for the metric."""
    return any(p.scores[metric].higher_is_better is not None for p in points if metric in p.scores)


def badness(point: Point, metric: str) -> float:
    """The value, negated if higher is better."""
    score = point.scores[metric]
    return -score.value if score.higher_is_better else score.value


def best_of(points: Sequence[Point], metric: str) -> tuple[Point, list[Point]]:
    """The best point, and the others not shown to be worse: |x − y| ≤ √(h_x² + h_y²), h half of a 95% interval.

    This holds for independent errors. Points share their noise, so that their errors are positively correlated and the
    interval is too wide. A score without an interval counts as worse.
    """
    best = min(points, key=lambda p: (badness(p, metric), p.nfe))
    x = best.scores[metric]

    def close(y: Score) -> bool:
        return bool(x.interval and y.interval) and abs(x.value - y.value) <= math.hypot(half_width(x), half_width(y))

    return best, [p for p in points if p is not best and close(p.scores[metric])]


def front(points: Sequence[Point], metric: str, cost: str) -> list[Point]:
    """The Pareto front, sorted by cost: the settings that no other beats in both score and `cost` (nfe or seconds).

    [] for a metric for which neither higher nor lower is better.
    """
    kept: list[Point] = []
    if ranks(points, metric):
        for p in sorted(points, key=lambda p: (getattr(p, cost), badness(p, metric))):
            if not kept or badness(p, metric) < badness(kept[-1], metric):
                kept.append(p)
    return kept


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
        for interval in dict.fromkeys(p.interval for p in of_sampler if p.scale != 1) or {"": None}:
            line = [p for p in of_sampler if p.scale == 1 or p.interval == interval]
            name = sampler if interval in ("", "everywhere") else f"{sampler}, {interval}"
            found[name] = sorted(line, key=lambda p: (p.scale, p.nfe))
    return found


# --------------------------------------------------------------------------------------------------------- charts


@style.styled
def by_cost(study: Study, metric: str, costs: Sequence[str]) -> Figure:
    """The score by each of `costs` (nfe, seconds or scale), a line per sampler and interval, and the floor.

    By nfe and seconds, with the Pareto front.
    """
    points = [p for p in study.points if metric in p.scores]
    lines = lines_of(points)
    figure = Figure((style.COLUMN[0], 0.4 + 2.4 * len(costs) + 0.1 * len(lines)), layout="constrained")
    panels = figure.subplots(len(costs), squeeze=False)[:, 0]
    for ax, cost in zip(panels, costs, strict=True):
        if cost != "scale":
            best = front(points, metric, cost)
            ends = [getattr(p, cost) for p in best], [p.scores[metric].value for p in best]
            ax.step(*ends, where="post", color=style.LIGHT, linewidth=4, label="Pareto front", zorder=1)
            ax.set_xscale("log")
            style.plain_numbers(ax.xaxis)
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.xaxis.set_minor_locator(NullLocator())
        if (floor := study.floor.get(metric)) is not None:
            ax.axhline(floor.value, color=style.GREY, linewidth=1.0, linestyle="--", label="floor", zorder=1)
            ax.axhspan(*(floor.interval or (floor.value,) * 2), color=style.LIGHT, alpha=0.35, linewidth=0, zorder=0)
        for look, (name, line) in zip(LOOKS, lines.items(), strict=False):
            _line(ax, line, [getattr(p, cost) for p in line], metric, name, look)
        ax.set_xlabel(COSTS[cost])
        ax.set_ylabel(style.plain(metric))
    _legend(figure, panels[0])
    return figure


@style.styled
def against(study: Study, pair: tuple[str, str]) -> Figure:
    """Fidelity (up) against diversity (to the right) along the scales, with intervals."""
    fidelity, diversity = pair
    lines = lines_of([p for p in study.points if {*pair} <= p.scores.keys()])
    figure, ax = style.axes((style.COLUMN[0], 2.8 + 0.1 * len(lines)))
    halo = [withStroke(linewidth=2, foreground=style.GROUND)]
    for look, (name, line) in zip(LOOKS, lines.items(), strict=False):
        _line(ax, line, [p.scores[diversity].value for p in line], fidelity, name, look, diversity)
        for p in line:
            place = (p.scores[diversity].value, p.scores[fidelity].value)
            ax.annotate(f"{p.scale:g}", place, (4, 3), textcoords="offset points", fontsize=8, path_effects=halo)
    ax.set_xlabel(style.plain(f"{diversity} (diversity)"))
    ax.set_ylabel(style.plain(f"{fidelity} (fidelity)"))
    _legend(figure, ax)
    return figure


def _line(
    ax: Axes, points: Sequence[Point], x: Sequence[float], up: str, name: str, look: Mapping[str, Any], across: str = ""
) -> None:
    """A line of points with their intervals, also those of the metric `across`, if the x axis is one."""

    def bars(metric: str) -> Any:
        """The lengths of the intervals below and above the values; 0 without an interval."""
        scores = [p.scores[metric] for p in points]
        ends = [score.interval or (score.value, score.value) for score in scores]
        return [[abs(end[side] - s.value) for s, end in zip(scores, ends, strict=True)] for side in (0, 1)]

    y = [p.scores[up].value for p in points]
    size: Any = {"markersize": 4, "linewidth": 1.2, "elinewidth": 0.8, "capsize": 2}
    drawn = ax.errorbar(x, y, bars(up), bars(across) if across else None, label=style.plain(name), **size, **look)
    texts = [f"{p.name}, {p.steps} steps, {p.nfe} evaluations\n{up} {value_text(p.scores[up])}" for p in points]
    readable(drawn.lines[0], name, texts=texts)


def _legend(figure: Figure, ax: Axes) -> None:
    """A legend below the figure, with as many columns as fit."""
    handles, names = ax.get_legend_handles_labels()
    columns = max(1, min(3, 64 // (8 + max(map(len, names), default=1))))
    figure.legend(handles, names, loc="outside lower center", ncols=columns)
