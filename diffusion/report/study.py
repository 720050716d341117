"""The report of a study of samplers or of a guidance: a table of all settings, and a chart of each metric."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from diffusion.console import console
from diffusion.files import replace
from diffusion.metric.record import Score
from diffusion.report import style
from diffusion.report.page import MISSING, Cell, Chart, Section, Table, write_files
from diffusion.report.scores import BASELINES, number, protocol_text, value_text
from diffusion.runs.folder import Run

COLUMNS = ("sampler", "scale", "low", "high", "steps", "nfe", "seconds_per_image")
VARIED = ("words", "sampler", "guidance", "nfe", "seconds_per_image", "device", "test_evaluation", "checkpoint")
WORDS = (
    "All samples use the same noise and the same classes, so differences are due to the settings. Bold: no setting "
    "with as many network evaluations (nfe) or fewer is better; settings whose intervals overlap may be as good. "
    "Guidance of some scale acts at noise levels sigma/alpha from low to high; scale 1 is no guidance. "
)
BARS = (
    "Bars are 95% intervals. The dashed line is the floor, the score of as many real images as samples (or of all, if "
    "there are fewer) against others: chance alone."
)


class Setting(NamedTuple):
    """A setting: its values of `COLUMNS`, the name of its line in a chart, its scores by metric."""

    about: dict[str, Any]
    line: str  # the sampler and the interval of its guidance: `ddim in (0.2, 1.6]`
    scores: dict[str, Score]


class Study(NamedTuple):
    """The settings of a study, the scores of its baselines by metric, and what the charts show: by `nfe` or `scale`."""

    settings: list[Setting]
    baselines: dict[str, dict[str, Score]]
    over: str

    @property
    def title(self) -> str:
        return f"Study of {'guidance' if self.over == 'scale' else 'samplers'}"

    @property
    def metrics(self) -> dict[str, Score]:
        """The metrics, each with one of its scores."""
        return {metric: score for each in self.settings for metric, score in each.scores.items()}

    def is_best(self, score: Score, nfe: int) -> bool:
        """Whether no setting with `nfe` evaluations is better, and none with fewer is as good."""
        sign = {True: -1, False: 1, None: 0}[score.higher_is_better]
        rivals = [(sign * each.scores[score.metric].value, each.about["nfe"])
                  for each in self.settings if each.about["nfe"] <= nfe and score.metric in each.scores]  # fmt: skip
        return sign != 0 and (sign * score.value, nfe) <= min(rivals)


def is_study(run: Run) -> bool:
    """Whether the folder contains scores by sampling cost (NFE)."""
    return any("nfe" in score.source for score in run.scores)


def study_of(run: Run) -> Study:
    """The latest study in a folder: of the model, the seed, the program, n and the reference of its last score."""

    def common(score: Score) -> Any:
        return score.code, score.n, score.reference, {k: v for k, v in score.source.items() if k not in VARIED}

    last = [score for score in run.scores if "nfe" in score.source][-1]
    settings, baselines = dict[str, Setting](), dict[str, dict[str, Score]]()
    for score in run.scores:
        source, guidance = score.source, score.source.get("guidance") or {}
        if "nfe" not in source:
            baselines.setdefault(score.what, {})[score.metric] = score
        elif common(score) == common(last):
            name, steps = source["words"], source["sampler"].get("steps")
            low, high = guidance.get("low"), guidance.get("high")
            inside = "" if low is high is None else f" in ({low or 0:g}, {math.inf if high is None else high:g}]"
            about = {"scale": 1, **guidance, **source, "sampler": name, "steps": steps}
            made = json.dumps([source["sampler"], guidance], sort_keys=True, default=str)
            settings.setdefault(made, Setting(about, name + inside, {})).scores[score.metric] = score
    over = "scale" if len({each.about["scale"] for each in settings.values()}) > 1 else "nfe"
    return Study([*settings.values()], baselines, over)


def write_study(run: Run) -> list[Path]:
    """Write the table, the charts and the page of a study, and print its table."""
    file, study = run.folder / "study.csv", study_of(run)
    replace(file, table_of(study).csv())
    table_of(study).print(console)
    return [file, *write_files(run.folder, "study.md", study.title, study_sections(study))]


def study_sections(study: Study) -> list[Section]:
    """The sections of the report: the settings, and a chart of each metric."""
    charts = [Chart(metric, chart(study, metric), f"figures/{metric}.png") for metric in study.metrics]
    score = next(iter(study.metrics.values()))
    words = f"{WORDS}Seconds are on {score.source.get('device')}. {protocol_text(score)}."
    return [Section("Settings", [table_of(study), words]), Section("Scores", [BARS, *charts])]


def table_of(study: Study) -> Table:
    """All settings and the baselines."""
    columns = [name for name in COLUMNS if study.over == "scale" or name not in ("scale", "low", "high")]
    metrics, rows = [*study.metrics], list[list[str | Cell]]()
    for about, _, scores in study.settings:
        values = [about.get(name) for name in columns[1:]]
        row = [about["sampler"], *(MISSING if value is None else Cell(number(value), value) for value in values)]
        for score in map(scores.get, metrics):
            row.append(Cell(value_text(score), score.value, study.is_best(score, about["nfe"])) if score else MISSING)
        rows.append(row)
    for what, scores in study.baselines.items():
        cells = [Cell(value_text(score), score.value) if score else MISSING for score in map(scores.get, metrics)]
        rows.append([Cell(BASELINES.get(what, what), what), *[MISSING] * (len(columns) - 1), *cells])
    return Table([*columns, *metrics], rows, range(1, len(columns) + len(metrics)))


@style.styled
def chart(study: Study, metric: str) -> Figure:
    """The score by network evaluations or by scale, a line per sampler and interval, and the floor."""
    figure, ax = style.axes((style.COLUMN[0], 3.3))
    if floor := study.baselines.get("floor", {}).get(metric):
        ax.axhline(floor.value, color=style.GREY, linewidth=1.0, linestyle="--", label="floor", zorder=1)
        ax.axhspan(*(floor.interval or (floor.value,) * 2), color=style.LIGHT, alpha=0.35, linewidth=0, zorder=0)
    lines = {each.line: each.about["sampler"] for each in study.settings}
    for look, (line, sampler) in zip(style.LOOKS, lines.items(), strict=False):
        unguided = (sampler, 1)  # begins every line of the sampler
        own = [
            each for each in study.settings
            if metric in each.scores and (each.line == line or (each.about["sampler"], each.about["scale"]) == unguided)
        ]  # fmt: skip
        own.sort(key=lambda each: each.about[study.over])
        values = np.array([each.scores[metric].value for each in own])
        ends = np.array([each.scores[metric].interval or (each.scores[metric].value,) * 2 for each in own])
        how: Any = {"label": style.plain(line), "markersize": 4, "linewidth": 1.2, "elinewidth": 0.8, "capsize": 2}
        ax.errorbar([each.about[study.over] for each in own], values, np.abs(ends.T - values), **how, **look)
    ax.set_xlabel({"scale": "scale (1: no guidance)", "nfe": "network evaluations"}[study.over])
    ax.set_ylabel(style.plain(metric))
    style.legend_below(figure, ax)
    return figure
