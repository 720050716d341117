"""The report of a study of samplers or of a guidance: a table of all settings, and a chart of each metric."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from diffusion.base.console import console
from diffusion.base.files import replace
from diffusion.findings.scores import ends, protocol_text, value_text
from diffusion.findings.tradeoff import Row, is_best, metrics_of, over, rows_of
from diffusion.metric.record import Score
from diffusion.report import style
from diffusion.report.page import Cell, Section, Table, write_files
from diffusion.runs.folder import Run

OF_GUIDANCE = ("scale", "low", "high")  # columns, if scales are compared
COLUMNS = ("sampler", *OF_GUIDANCE, "steps", "nfe", "seconds_per_image")  # before the scores
WORDS = (
    "All samples use the same noise and the same classes, so differences are due to the settings. Bold: no setting "
    "with as many network evaluations (nfe) or fewer is better, and some setting is worse. So a dearer row may be "
    "bold, too; settings whose intervals overlap may be as good. Their intervals are over other samples, with the same "
    "reference. Guidance of some scale acts at noise levels sigma/alpha from low to high; scale 1 is no guidance."
)
BARS = (
    "Bars are 95% intervals over other samples, with the same reference. The dashed line is the score of as "
    "many real images as samples (or of all, if there are fewer) against others: chance alone."
)


def write_study(run: Run) -> list[Path]:
    """Write the table, the charts and the page of a study, and print its table."""
    file, table = run.folder / "study.csv", table_of(rows_of(run))
    replace(file, table.csv())
    table.print(console)
    console.print("*best* with as many network evaluations (nfe) or fewer")
    return [file, *write_files(run.folder, "study.md", f"Study of {run.config.get('ckpt')}", study_sections(run))]


def study_sections(run: Run) -> list[Section]:
    """The sections of the report: a chart of each metric, and all settings."""
    rows = rows_of(run)
    metrics = metrics_of(rows)
    score = next(iter(metrics.values()))
    words = f"Seconds are on {score.source.get('device')}. {protocol_text(score)}."
    charts = [style.Chart(metric, chart(rows, metric).figure, f"figures/{metric}.png") for metric in metrics]
    return [
        Section("Scores", [*charts, BARS]),
        Section("Settings", [table_of(rows), WORDS]),
        Section("Protocol", [words], folded=True),
    ]


def table_of(rows: list[Row]) -> Table:
    def cell(row: Row, column: str) -> str | float | Cell | None:
        score = row.get(column)
        if isinstance(score, Score):
            return Cell(value_text(score), score.value, bold="nfe" in row and is_best(score, row["nfe"], rows))
        return score

    columns = [name for name in COLUMNS if over(rows) == "scale" or name not in OF_GUIDANCE] + [*metrics_of(rows)]
    return Table(columns, [[cell(row, column) for column in columns] for row in rows])


@style.chart(size=style.TALL)
def chart(figure: Figure, rows: list[Row], metric: str) -> str:
    """The score by network evaluations or by scale, a line per sampler and interval, and the split-half score."""
    ax = figure.add_subplot()
    for real in (row[metric] for row in rows if row["sampler"] == "split_half" and metric in row):
        ax.axhline(real.value, color=style.GREY, linewidth=1.0, linestyle="--", label="split half", zorder=1)
        ax.axhspan(*ends(real), color=style.LIGHT, alpha=0.35, linewidth=0, zorder=0)
    x, settings = over(rows), sorted((row for row in rows if "nfe" in row), key=lambda row: row[over(rows)])
    lines = {row["line"]: row["sampler"] for row in rows if "nfe" in row}
    for look, (line, sampler) in zip(style.LOOKS, lines.items(), strict=False):
        own = [row for row in settings if row["line"] == line or (row["sampler"], row["scale"]) == (sampler, 1)]
        scores = [row[metric] for row in own if metric in row]
        values = np.array([score.value for score in scores])
        bars = np.abs(np.array([*map(ends, scores)]).T - values)
        how: Any = {"label": style.plain(line), "markersize": 4, "linewidth": 1.2, "elinewidth": 0.8, "capsize": 2}
        ax.errorbar([row[x] for row in own if metric in row], values, bars, **how, **look)
    ax.set_xlabel({"scale": "scale (1: no guidance)", "nfe": "network evaluations"}[x])
    ax.set_ylabel(style.plain(metric))
    style.legend_below(figure, ax)
    return metric
