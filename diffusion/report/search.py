"""The part of a sweep's page about its search: the scores trial by trial, what mattered, and the best compromises."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from diffusion.report import style
from diffusion.report.page import MISSING, Cell, Chart, Section, Table
from diffusion.report.scores import number
from diffusion.runs.folder import RESULTS, read_yaml

HISTORY = "{} of each trial; the line is the best so far."
IMPORTANCES = (
    "How much each setting tells the best trials from the others, in sum 100% (PED-ANOVA: Watanabe, Bansal and Hutter, "
    "2023, https://arxiv.org/abs/2304.10255). It says little before some twenty trials."
)
FRONT = "The complete trials by two scores; no other trial is better by both than one on the line."


def search_sections(folder: Path) -> list[Section]:
    """The sections about the search in the folder of a sweep; none if it was no search."""
    found = read_yaml(folder / RESULTS)
    if not (trials := found.get("trials")):
        return []
    scores, charts = found["scores"], []
    if found["solutions"]:
        charts = [Chart(HISTORY.format(name), history(found, i)) for i, name in enumerate(scores)]
        charts += [Chart(FRONT, front(found))] if len(scores) > 1 else []
    rows: list[list[str | Cell]] = []
    for trial in trials:
        values = [Cell(number(value), value) for value in trial["values"] or []]
        values += [Cell(MISSING)] * (len(scores) - len(values))
        rows.append([str(trial["number"]), trial["state"], *map(str, trial["params"].values()), *values])
    head = ["trial", "state", *trials[0]["params"], *scores]
    table = Table(head, rows, [0, *range(len(head) - len(scores), len(head))])
    shares = Table(("setting", "importance"), [[name, f"{x:.0%}"] for name, x in found["importances"].items()], (1,))
    return [Section("Search", [*charts, shares, IMPORTANCES]), Section("Trials", [table], folded=True)]


@style.styled
def history(found: Mapping[str, Any], i: int) -> Figure:
    """The i-th score by trial: a point for each complete one, a cross for each pruned one, and the best so far."""
    figure, ax = style.axes(style.TALL)
    best = np.minimum if found["directions"][i] == "minimize" else np.maximum
    for state, marker, colour in (("complete", "o", style.BLUE), ("pruned", "x", style.GREY)):
        shown = [trial for trial in found["trials"] if trial["state"] == state and trial["values"]]
        x, y = [trial["number"] for trial in shown], [trial["values"][i] for trial in shown]
        if shown:
            ax.plot(x, y, marker, color=colour, label=state, markersize=4)
        if state == "complete":
            ax.step(x, best.accumulate(y), where="post", color=style.VERMILION, linewidth=1.2, label="best so far")
    ax.set(xlabel="trial", ylabel=style.plain(found["scores"][i]))
    style.count_axis(ax)
    style.legend_below(figure, ax)
    return figure


@style.styled
def front(found: Mapping[str, Any]) -> Figure:
    """The complete trials by the first two scores, and a line through the best compromises."""
    figure, ax = style.axes()
    points = np.array([trial["values"] for trial in found["trials"] if trial["state"] == "complete"])
    best = np.array(sorted(trial["values"] for trial in found["solutions"]))
    ax.plot(points[:, 0], points[:, 1], "o", color=style.GREY, markersize=4, label="trial")
    ax.plot(best[:, 0], best[:, 1], "o-", color=style.BLUE, markersize=4, linewidth=1.2, label="front")
    ax.set(xlabel=style.plain(found["scores"][0]), ylabel=style.plain(found["scores"][1]))
    ax.legend()
    return figure
