"""The part of a sweep's page about its search: the scores trial by trial, what mattered, and the best compromises."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from diffusion.errors import pip_install
from diffusion.report import style
from diffusion.report.page import MISSING, Chart, Section, Table
from diffusion.report.scores import number
from diffusion.runs.folder import STUDY

IMPORTANCES = "How much each setting tells the best quarter of the trials from the others; rough below twenty trials."


def search_sections(folder: Path) -> list[Section]:
    """The sections about the search in the folder of a sweep; none if it was no search, or has no result yet."""
    if not (folder / STUDY).is_file():
        return []
    try:
        import optuna

        from diffusion.runs.search import place_of
    except ModuleNotFoundError:
        return [Section("Search", [f"{STUDY} contains the trials. To show them here: {pip_install('sweep')}"])]
    study: Any = optuna.load_study(**place_of(folder))
    if not study.best_trials:
        return []
    scores, head = study.metric_names, [*study.metric_names, *study.best_trials[0].params]
    found = [(t, t.params | dict(zip(scores, map(number, t.values or ()), strict=False))) for t in study.trials]
    rows = [[str(t.number), t.state.name.lower(), *(str(of.get(key, MISSING)) for key in head)] for t, of in found]
    table = Table(["trial", "state", *head], rows, [0, *range(2, 2 + len(scores))])
    with warnings.catch_warnings(action="ignore"):  # that there are few trials
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.25)
        parts = optuna.importance.get_param_importances(study, evaluator=evaluator)
    shares = Table(("setting", "importance"), [[name, f"{part:.0%}"] for name, part in parts.items()], (1,))
    charts = [Chart(f"{name} by trial, and the best so far.", history(study, i)) for i, name in enumerate(scores)]
    charts += [Chart("The trials by two scores; none beats the line by both.", front(study))] if len(scores) > 1 else []
    return [Section("Search", [*charts, shares, IMPORTANCES]), Section("Trials", [table], folded=True)]


@style.styled
def history(study: Any, i: int) -> Figure:
    """The i-th score by trial: a point for each complete one, a cross for each pruned one, and the best so far."""
    figure, ax = style.axes(style.TALL)
    best = np.minimum if study.directions[i].name == "MINIMIZE" else np.maximum
    for state, marker, colour in (("COMPLETE", "o", style.BLUE), ("PRUNED", "x", style.GREY)):
        shown = [(t.number, t.values[i]) for t in study.trials if t.state.name == state and t.values]
        x, y = np.array(shown).reshape(-1, 2).T
        ax.plot(x, y, marker, color=colour, label=state.lower() if shown else None, markersize=4)
        if state == "COMPLETE":
            ax.step(x, best.accumulate(y), where="post", color=style.VERMILION, linewidth=1.2, label="best so far")
    ax.set(xlabel="trial", ylabel=style.plain(study.metric_names[i]))
    style.count_axis(ax)
    style.legend_below(figure, ax)
    return figure


@style.styled
def front(study: Any) -> Figure:
    """The complete trials by the first two scores, and a line through the best compromises."""
    figure, ax = style.axes()
    points = np.array([trial.values for trial in study.trials if trial.state.name == "COMPLETE"])
    best = np.array(sorted(trial.values for trial in study.best_trials))
    ax.plot(points[:, 0], points[:, 1], "o", color=style.GREY, markersize=4)
    ax.plot(best[:, 0], best[:, 1], "o-", color=style.BLUE, markersize=4, linewidth=1.2)
    ax.set(xlabel=style.plain(study.metric_names[0]), ylabel=style.plain(study.metric_names[1]))
    return figure
