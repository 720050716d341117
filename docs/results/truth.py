"""Draw the figures of the studies `solver`, `regret` and `times` from their runs: means over seeds with 95% intervals.

python docs/results/truth.py solver [RUNS]     # after diffusion reproduce; RUNS: outputs/results
"""

import sys
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffusion.findings.compare import Mean
from diffusion.process.schedule import cosine
from diffusion.report import style
from diffusion.runs.folder import Run, jobs_of

HERE = Path(__file__).parent
LOOKS: Any = {"linewidth": 1.3, "markersize": 3, "marker": "o", "capsize": 2, "elinewidth": 0.8}


def name_of(run: Run, part: str) -> str:
    """The class of a part of a run's recipe."""
    node = run.settings
    for key in part.split("."):
        node = node[key]
    return str(node["_target_"]).rpartition(".")[2]


def curves(ax: Axes, points: Iterable[tuple[Hashable, float, Any, float]], look: Callable[[Any], Any]) -> None:
    """A curve for each name, from (name, x, seed, y); `look` has the arguments of its plot."""
    found: dict[Hashable, dict[float, list[tuple[Any, float]]]] = defaultdict(lambda: defaultdict(list))
    for name, x, seed, y in points:
        found[name][x].append((seed, y))
    for name, at in found.items():
        x = sorted(at)
        means = [Mean(at[each]) for each in x]
        ax.errorbar(x, [m.mean for m in means], [m.half for m in means], **LOOKS, **look(name))


@style.chart("solver/solver.png", style.TALL)
def solver(figure: Figure, runs: Path) -> str:
    """The energy distance by evaluations for each sampler: with the network, and dashed with the best denoiser."""
    points = []
    for run in (each for each in jobs_of(runs / "solver/drawn") if each.scores):
        sampler, steps = name_of(run, "sampler"), int(run.settings["sampler"]["steps"])
        energy = next(s.value for s in run.scores if s.metric == "energy_points" and s.what == "samples")
        nfe = 2 * steps - 1 if sampler == "Heun" else steps
        points.append(((sampler, run.settings["weights"]), nfe, run.seeds[0], energy))
    names = list(dict.fromkeys(name for (name, _), *_ in points))

    def look(key: tuple[str, str]) -> Any:
        exact = key[1] == "exact"
        label = {} if exact else {"label": key[0]}
        return {"color": style.HUES[names.index(key[0])], "linestyle": "--" if exact else "-", **label}

    ax = figure.subplots()
    curves(ax, points, look)
    ax.set_yscale("symlog", linthresh=1e-3)
    ax.set(xlabel="evaluations of the denoiser", ylabel="energy distance")
    style.count_axis(ax)
    style.legend_below(figure, ax)
    return ""


@style.chart("regret/regret.png", (7.2, 3.3))
def regret(figure: Figure, runs: Path) -> str:
    """Left: the error above the best by time and steps of training; right: by width and prediction, for images."""
    left, right = figure.subplots(1, 2)
    plane = [run for run in jobs_of(runs / "regret/plane") if run.settings["model"]["width"] == 64]
    plain = [run for run in plane if name_of(run, "prediction") == "V" and "unit" in str(run.settings["objective"])]
    steps = sorted({run.settings["trainer"]["max_steps"] for run in plain})
    by_time = [
        (
            run.settings["trainer"]["max_steps"],
            (i + 0.5) / 10,
            run.seeds[0],
            run.metrics[f"regret/mse_bin{i}"].value[-1],
        )
        for run in plain
        for i in range(10)
    ]
    curves(left, by_time, lambda n: {"color": style.HUES[steps.index(n)], "label": f"{n:,} steps"})
    left.set(xlabel="time $t$", ylabel="squared error of ε above the best", title="points")
    images = [
        (name_of(run, "prediction"), run.settings["model"]["width"], run.seeds[0], run.metrics["regret/mse"].value[-1])
        for run in jobs_of(runs / "regret/images")
    ]
    names = {"Eps": "ε", "V": "v", "X0": "x0"}
    curves(right, images, lambda n: {"color": style.HUES[[*names].index(n)], "label": names[n]})
    width = np.linspace(20, 255, 200)  # of 256 directions of the noise, the network passes `width`
    alpha, _ = cosine()(torch.linspace(0, 1, 1001, dtype=torch.float64)[1:])
    for factor in (1.0, float((alpha**4).mean())):  # see the page
        right.plot(width, factor * (1 - width / 256), color=style.GREY, linewidth=0.9, linestyle=":")
    right.set_xscale("log", base=2)
    right.set(xlabel="features of the network", title="images of 256 pixels")
    for ax in (left, right):
        ax.set_yscale("log")
        ax.legend()
    return ""


@style.chart("times/times.png", style.TALL)
def times(figure: Figure, runs: Path) -> str:
    """The error of the noise on held-out images by time, divided by that of uniform times with the same seed."""
    found = {(name_of(run, "objective.timesteps"), run.seeds[0]): run.metrics for run in jobs_of(runs / "times/train")}
    names = [name for name in dict.fromkeys(name for name, _ in found) if name != "UniformTable"]

    def error(name: str, seed: Any, i: int) -> float:
        return float(found[name, seed][f"val/mse_bin{i}"].value[-1])

    points = [
        (name, (i + 0.5) / 10, seed, error(name, seed, i) / error("UniformTable", seed, i))
        for name, seed in found
        if name in names
        for i in range(10)
    ]
    ax = figure.subplots()
    curves(ax, points, lambda name: {"color": style.HUES[names.index(name)], "label": name})
    ax.axhline(1, color=style.GREY, linewidth=0.8)
    ax.set(xlabel="time $t$", ylabel="error of ε, relative to uniform times")
    style.legend_below(figure, ax)
    return ""


if __name__ == "__main__":
    study, places = sys.argv[1], sys.argv[2:]
    draw = {"solver": solver, "regret": regret, "times": times}[study]
    draw(Path([*places, "outputs/results"][0])).save(HERE)
