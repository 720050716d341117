"""The part of a sweep's page about its search: the scores trial by trial, what mattered, and the best compromises."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from diffusion.errors import pip_install
from diffusion.report import style
from diffusion.report.page import Cell, Section, Table
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
    rows = []
    for trial in study.trials:
        chosen = {key: str(value) for key, value in trial.params.items()}
        found = chosen | dict(zip(scores, trial.values or (), strict=False))
        rows.append([trial.number, trial.state.name.lower(), *map(found.get, head)])
    with warnings.catch_warnings(action="ignore"):  # that there are few trials
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.25)
        parts = optuna.importance.get_param_importances(study, evaluator=evaluator)
    shares = Table(("setting", "importance"), [[name, Cell(f"{part:.0%}", part)] for name, part in parts.items()])
    charts = [history(study, i) for i in range(len(scores))]
    return [
        Section("Search", [*charts, front(study) if len(scores) > 1 else None, shares, IMPORTANCES]),
        Section("Trials", [Table(["trial", "state", *head], rows)], folded=True),
    ]


@style.chart(size=style.TALL)
def history(figure: Figure, study: Any, i: int) -> str:
    """The i-th score by trial: a point for each complete one, a cross for each pruned one, and the best so far."""
    ax, name = figure.add_subplot(), study.metric_names[i]
    best = np.minimum if study.directions[i].name == "MINIMIZE" else np.maximum
    for state, marker, colour in (("COMPLETE", "o", style.BLUE), ("PRUNED", "x", style.GREY)):
        shown = [(t.number, t.values[i]) for t in study.trials if t.state.name == state and t.values]
        x, y = np.array(shown).reshape(-1, 2).T
        ax.plot(x, y, marker, color=colour, label=state.lower() if shown else None, markersize=4)
        if state == "COMPLETE":
            ax.step(x, best.accumulate(y), where="post", color=style.VERMILION, linewidth=1.2, label="best so far")
    ax.set(xlabel="trial", ylabel=style.plain(name))
    style.count_axis(ax)
    style.legend_below(figure, ax)
    return f"{name} by trial, and the best so far."


@style.chart()
def front(figure: Figure, study: Any) -> str:
    """The complete trials by the first two scores, and a line through the best compromises."""
    ax = figure.add_subplot()
    points = np.array([trial.values for trial in study.trials if trial.state.name == "COMPLETE"])
    best = np.array(sorted(trial.values for trial in study.best_trials))
    ax.plot(points[:, 0], points[:, 1], "o", color=style.GREY, markersize=4)
    ax.plot(best[:, 0], best[:, 1], "o-", color=style.BLUE, markersize=4, linewidth=1.2)
    ax.set(xlabel=style.plain(study.metric_names[0]), ylabel=style.plain(study.metric_names[1]))
    return "The trials by two scores; none beats the line by both."
