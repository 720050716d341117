"""The report of a study of samplers or of guidance: scores by cost or by scale, and what to use."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffusion.console import console
from diffusion.files import replace
from diffusion.metric.record import Score
from diffusion.report import style
from diffusion.report.page import MISSING, Cell, Chart, Section, Table, write_files
from diffusion.report.scores import BASELINES, number, protocol_text, value_text
from diffusion.runs.folder import Run

VARIED = (  # within one study
    "words", "sampler", "guidance", "nfe", "seconds_per_image", "device", "test_evaluation", "checkpoint",
)  # fmt: skip
FIDELITY = {"precision": "recall", "density": "coverage"}  # fidelity -> diversity; the first measured pair is used


class Point(NamedTuple):
    """One setting: a sampler, its steps, network evaluations and seconds per image, and its scores by metric.

    `scale` and the interval (`low`, `high`] are those of the guidance; None: unbounded. Without guidance, scale is 1.
    """

    sampler: str
    steps: int
    nfe: int
    seconds: float
    scores: dict[str, Score]
    scale: float = 1.0
    low: float | None = None
    high: float | None = None

    @property
    def line(self) -> str:
        """The sampler and the interval of its guidance: `ddim in (0.19, 1.61]`."""
        if self.high is not None:
            return f"{self.sampler} in ({number(self.low or 0)}, {number(self.high)}]"
        return self.sampler if self.low is None else f"{self.sampler} above {number(self.low)}"

    @property
    def name(self) -> str:
        """The sampler and its guidance: `ddim in (0.19, 1.61], scale 2`."""
        return self.sampler if self.scale == 1 else f"{self.line}, scale {self.scale:g}"

    def badness(self, metric: str) -> float:
        """The value of a metric, negated if higher is better."""
        score = self.scores[metric]
        return -score.value if score.higher_is_better else score.value


@dataclass(frozen=True)
class Study:
    """The points of a study and its baselines; what was studied (samplers, or a guidance), and on what."""

    points: Sequence[Point]
    baselines: Sequence[Score]
    guidance: str | None  # the guidance whose scales are studied, or None for samplers
    reference: str  # the split
    device: str | None = None

    @property
    def title(self) -> str:
        return f"{self.guidance or 'Samplers'} against {self.reference}"

    @property
    def metrics(self) -> list[str]:
        return list(dict.fromkeys(metric for point in self.points for metric in point.scores))

    @property
    def first(self) -> str:
        """The metric that the advice is based on: the first for which higher or lower is better, or else the first."""
        return next(filter(ranked, self.metrics), self.metrics[0])


def ranked(metric: str) -> bool:
    """Whether higher or lower is better for the metric."""
    return Score(metric, 0.0, None).higher_is_better is not None


def is_study(run: Run) -> bool:
    """Whether the folder contains scores by sampling cost (NFE)."""
    return any("nfe" in score.source for score in run.scores)


def study_of(run: Run) -> Study:
    """The latest study in a folder: of the model, the seed, the program, n and the reference of its last score."""

    def common(score: Score) -> Any:
        return score.code, score.n, score.reference, {k: v for k, v in score.source.items() if k not in VARIED}

    settings = [score for score in run.scores if "nfe" in score.source]
    last = settings[-1]
    baselines = {(score.what, score.metric): score for score in run.scores if "nfe" not in score.source}
    points: dict[str, Point] = {}  # sampler and guidance -> the setting
    for score in (score for score in settings if common(score) == common(last)):
        source = score.source
        guided: Mapping[str, Any] = source.get("guidance") or {}
        cost = (source["sampler"].get("steps") or 0, source["nfe"], source.get("seconds_per_image") or math.nan)
        interval = (guided.get("scale") or 1.0, guided.get("low"), guided.get("high"))
        made = json.dumps([source["sampler"], guided], sort_keys=True, default=str)
        points.setdefault(made, Point(source["words"], *cost, {}, *interval)).scores[score.metric] = score
    several = len({point.scale for point in points.values()}) > 1
    guidance = str(last.source["guidance"].get("name")) if several else None
    reference, device = last.reference.split, last.source.get("device")
    return Study([*points.values()], [*baselines.values()], guidance, reference, device)


def write(study: Study, folder: Path) -> list[Path]:
    """Write the files of a study, and print the advice and the floor."""
    name, sections = "guidance" if study.guidance else "study", study_sections(study)
    replace(folder / f"{name}.csv", settings(study).csv())
    advice(study).print(console)
    for score in study.baselines:
        if score.what == "floor" and score.metric == study.first:
            console.print(f"floor ({score.n} real images against others): {score.metric} {value_text(score)}")
    return [folder / f"{name}.csv", *write_files(folder, f"{name}.md", study.title, sections)]


def study_sections(study: Study) -> list[Section]:
    """The sections of the report: the advice, the charts, all settings."""
    per = "for each sampler" if study.guidance else "from each number of network evaluations on"
    words = (
        f"All samples use the same noise and the same classes, so differences are due to the settings. The table shows "
        f"the best setting {per} by {study.first}; settings whose intervals overlap may be as good. If the best scale "
        "is the largest one, try larger ones."
    )
    protocol = protocol_text(next(p.scores[study.first] for p in study.points if study.first in p.scores))
    about = (
        f"Seconds are on {study.device or 'an unknown device'}, in batches. Guidance acts at noise levels sigma/alpha "
        f"from low to high; scale 1 is no guidance. {protocol}."
    )
    all_settings = Section("Settings", [settings(study), about])
    return [Section("", [words, advice(study)]), Section("Scores", charts(study)), all_settings]


def advice(study: Study) -> Table:
    """The table of the best setting of each sampler or, without guidance, of what to use up to a number of NFE."""
    first, rows = study.first, list[list[str]]()
    points = [p for p in study.points if first in p.scores and ranked(first)]
    if study.guidance:
        groups = {name: [p for p in points if p.sampler == name] for name in dict.fromkeys(p.sampler for p in points)}
    else:
        groups = {str(nfe): [p for p in points if p.nfe <= nfe] for nfe in sorted({p.nfe for p in points})}
    for name, within in groups.items():
        best = min(within, key=lambda p: (p.badness(first), p.nfe))
        row = [best.name, str(best.steps), str(best.nfe), number(best.seconds), value_text(best.scores[first])]
        if study.guidance or not rows or rows[-1][1:] != row:  # more evaluations help
            rows.append([name, *row])
    head = ["sampler" if study.guidance else "NFE from", "use", "steps", "NFE", "s/image", first]
    return Table(head, rows, (2, 3, 4, 5))


def settings(study: Study) -> Table:
    """All settings and the baselines."""
    head = ["sampler", *["low", "high", "scale"] * bool(study.guidance), "steps", "nfe", "seconds_per_image"]

    def row(name: Cell, costs: Iterable[float | None], scores: Mapping[str, Score]) -> list[Cell]:
        cells = [Cell(MISSING) if cost is None else Cell(number(cost), cost) for cost in costs]
        found = [scores.get(metric) for metric in study.metrics]
        return [name, *cells, *(Cell(value_text(score), score.value if score else None) for score in found)]

    rows = []
    for p in study.points:
        guidance = (p.low, p.high, p.scale) if study.guidance else ()
        rows.append(row(Cell(p.sampler), [*guidance, p.steps, p.nfe, p.seconds], p.scores))
    for what in dict.fromkeys(score.what for score in study.baselines):
        found = {score.metric: score for score in study.baselines if score.what == what}
        rows.append(row(Cell(BASELINES.get(what, what), what), [None] * (len(head) - 1), found))
    return Table([*head, *study.metrics], rows, range(1, len(head) + len(study.metrics)))


def charts(study: Study) -> Iterable[Chart]:
    """The charts of all metrics; that of the first one is a file, too."""
    name = "guidance.png" if study.guidance else "study.png"
    words = (
        "Bars are 95% intervals. The dashed line is the floor, the score of as many real images as samples (or of all, "
        "if there are fewer) against others: chance alone."
    )
    yield Chart(words, by_cost(study, study.first), name)
    for metric in study.metrics:
        if metric != study.first:
            yield Chart(metric, by_cost(study, metric))
    for pair in FIDELITY.items():
        found = [metric for kind in pair for metric in study.metrics if metric.startswith(kind)]
        if study.guidance and len(found) == 2:
            yield Chart("Fidelity against diversity, labelled by scale.", against(study, *found), "fidelity.png")
            return


@style.styled
def by_cost(study: Study, metric: str) -> Figure:
    """The score by network evaluations or by scale, a line per sampler and interval, and the floor."""
    points = [p for p in study.points if metric in p.scores]
    figure, ax = style.axes((style.COLUMN[0], 3.3))
    for floor in (score for score in study.baselines if (score.what, score.metric) == ("floor", metric)):
        ax.axhline(floor.value, color=style.GREY, linewidth=1.0, linestyle="--", label="floor", zorder=1)
        ax.axhspan(*(floor.interval or (floor.value,) * 2), color=style.LIGHT, alpha=0.35, linewidth=0, zorder=0)
    for look, (name, line) in zip(style.LOOKS, lines_of(points).items(), strict=False):
        _draw(ax, name, [p.scale if study.guidance else p.nfe for p in line], line, metric, look)
    ax.set_xlabel("scale (1: no guidance)" if study.guidance else "network evaluations")
    ax.set_ylabel(style.plain(metric))
    style.legend_below(figure, ax)
    return figure


@style.styled
def against(study: Study, fidelity: str, diversity: str) -> Figure:
    """Fidelity (up) against diversity (to the right) along the scales."""
    figure, ax = style.axes((style.COLUMN[0], 3.3))
    lines = lines_of([p for p in study.points if {fidelity, diversity} <= p.scores.keys()])
    for look, (name, line) in zip(style.LOOKS, lines.items(), strict=False):
        x = [p.scores[diversity].value for p in line]
        _draw(ax, name, x, line, fidelity, look)
        for p, at in zip(line, x, strict=True):
            place = (at, p.scores[fidelity].value)
            ax.annotate(f"{p.scale:g}", place, (4, 3), textcoords="offset points", fontsize=8)
    ax.set_xlabel(style.plain(f"{diversity} (diversity)"))
    ax.set_ylabel(style.plain(f"{fidelity} (fidelity)"))
    style.legend_below(figure, ax)
    return figure


def _draw(ax: Axes, name: str, x: Sequence[float], line: Sequence[Point], metric: str, look: Mapping[str, Any]) -> None:
    """Draw a line of points with the intervals of a metric."""
    scores = [p.scores[metric] for p in line]
    ends = [score.interval or (score.value, score.value) for score in scores]
    bars = [[abs(end[side] - s.value) for s, end in zip(scores, ends, strict=True)] for side in (0, 1)]
    size: Any = {"markersize": 4, "linewidth": 1.2, "elinewidth": 0.8, "capsize": 2}
    ax.errorbar(x, [score.value for score in scores], bars, label=style.plain(name), **size, **look)


def lines_of(points: Sequence[Point]) -> dict[str, list[Point]]:
    """Line name -> the points of a sampler and an interval, sorted by scale, including the point without guidance."""
    found: dict[str, list[Point]] = {}
    guided = {p.sampler for p in points if p.scale != 1}
    for p in points:
        if p.scale != 1 or p.sampler not in guided:
            found.setdefault(p.line, []).append(p)
    for name, line in found.items():
        line += [p for p in points if p.scale == 1 and p.sampler == line[0].sampler and p not in line]
        found[name] = sorted(line, key=lambda p: (p.scale, p.nfe))
    return found
